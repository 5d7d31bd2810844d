// The table of compiled kernels, kernels.txt, and the files beside it. engine/gpu writes both.
//
//     lazyneuron-gpu-kernels 1
//     # a comment
//     NAME ENTRY WARPS SHARED_BYTES BLOCK_ROWS BLOCK_NEURONS BLOCK_DEPTH BLOCK_COLUMNS HIDDEN SIGNATURE GRID
//
// A kernel's image is NAME.ptx, or NAME.sm_90.cubin for devices of that compute capability.
#pragma once

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace lazyneuron::cuda {

// The table, or a file that it names, cannot be used. The message names the file, and the line.
class TableError : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

// How many blocks a dimension of the grid has.
enum class GridRule { kOne, kRows, kRowTiles, kNeuronTiles, kColumnTiles, kSplits };

struct KernelSpec {
    std::string name, entry;
    int warps = 0, shared_bytes = 0;
    int block_rows = 0, block_neurons = 0, block_depth = 0, block_columns = 0;  // 0: not used
    int hidden = 0;         // pointers after the signature's parameters, to be null
    std::string signature;  // "*f32,*i8,i32,f32"
    std::array<GridRule, 3> grid{};
};

class KernelTable {
 public:
    // Throws a TableError. `path` is for messages and names the folder of the images.
    static KernelTable parse(const std::string& text, const std::string& path);
    static KernelTable read(const std::string& folder);

    const std::vector<KernelSpec>& kernels() const { return kernels_; }
    const KernelSpec& find(const std::string& name) const;  // throws a TableError
    // The kernel's file for a compute capability: a cubin made for it, else the PTX. Ends with a zero, as the
    // driver wants PTX.
    std::string image(const KernelSpec& kernel, int major, int minor) const;

 private:
    std::string path_, folder_;
    std::vector<KernelSpec> kernels_;
};

// Where the table of this very library lies: ../gpu/compiled from the library's folder.
std::string compiled_folder();

}  // namespace lazyneuron::cuda
