// SparseDown and SparseMLP on a GPU, on checked arguments: which kernels run, in which order, on which grids
// and in which scratch memory. Knows no ONNX Runtime; nothing here waits for the device.
//
// Rows are done in blocks, so that scratch memory stays below kScratchBytes however many there are; a block
// is:
//     which neurons are candidates   (quantize_rows, screen, list_masked; or list_scored)
//     candidates' exact values       (project)
//     activation, threshold, top-k   (select)
//     down projection                (down and, with few rows, reduce_down; or union_lists and down_tile)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "cuda/device_screen.h"
#include "cuda/down.h"
#include "dispatch/sparse_mlp.h"

namespace lazyneuron::cuda {

// One call's tensors, all on the device.
struct SparseDownCall {
    std::size_t rows, neurons, columns;
    const float* pre;      // [rows][neurons]
    const float* up_bias;  // [neurons] or null
    const float* budget;   // [rows] or null
    DownWeights down;
    float* y;              // [rows][columns]
    std::int32_t* active;  // [rows]
};

struct SparseMlpCall {
    std::size_t rows, depth, neurons, columns;
    const float* x;          // [rows][depth]
    NeuronWeights up, gate;  // of the types that the launcher was made for
    const float* up_bias;    // [neurons] or null
    const float* scores;     // [rows][neurons], null in certified mode
    const float* budget;     // [rows] or null
    DownWeights down;
    float* y;                  // [rows][columns]
    std::int32_t* active;      // [rows]
    std::int32_t* candidates;  // [rows]
};

// A block of rows may take this much scratch memory; where even a few rows need more they get it.
constexpr std::size_t kScratchBytes = 256 * 1024 * 1024;

class SparseDownLauncher {
 public:
    // Loads what it needs; the device's context is current. Throws a CudaError or a TableError.
    SparseDownLauncher(std::shared_ptr<Modules> modules, const SparseDownOptions& options, WeightType down,
                       DownPath path, std::size_t most_scratch = kScratchBytes);

    std::size_t scratch_bytes(const SparseDownCall& call) const;
    // Throws a CudaError or a std::invalid_argument. The device's context is current.
    void run(const SparseDownCall& call, void* scratch, CUstream stream) const;

 private:
    std::size_t block_bytes(const SparseDownCall& call, std::size_t rows) const;

    const std::shared_ptr<Modules> modules_;
    const SparseDownOptions options_;
    const std::size_t most_scratch_;
    const DownLauncher down_;
};

class SparseMlpLauncher {
 public:
    // `gate` is the gate projection's type, if there is one. Throws a CudaError or a TableError.
    SparseMlpLauncher(std::shared_ptr<Modules> modules, const SparseMlpOptions& options, WeightType up,
                      std::optional<WeightType> gate, WeightType down, DownPath path,
                      std::size_t most_scratch = kScratchBytes);

    // `screen` is there in certified mode.
    std::size_t scratch_bytes(const SparseMlpCall& call, const DeviceScreen* screen) const;
    // Throws a CudaError or a std::invalid_argument. The device's context is current.
    void run(const SparseMlpCall& call, const DeviceScreen* screen, void* scratch, CUstream stream) const;

 private:
    struct Workspace;
    class Block;
    std::size_t block_bytes(const SparseMlpCall& call, const DeviceScreen* screen, std::size_t rows) const;

    const std::shared_ptr<Modules> modules_;
    const SparseMlpOptions options_;
    const std::size_t most_scratch_;
    const DownLauncher down_;
    Kernel quantize_, screen_few_, screen_many_, list_masked_;  // certified mode
    Kernel list_scored_;                                        // the others
    Kernel project_up_, project_gate_;
};

}  // namespace lazyneuron::cuda
