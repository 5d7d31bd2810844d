// The second half of both operators on a GPU: gating, and the down projection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/launch.h"
#include "dispatch/sparse_down.h"
#include "dispatch/workspace.h"

namespace lazyneuron::cuda {

// How rows are projected down. Both ways are deterministic, but they round differently. So that a row's
// result does not depend on the rows beside it, a process goes one way, whatever the number of rows.
enum class DownPath {
    kRows,  // a row reads the weights of its own list
    kTiles  // a tile of rows reads the weights of their lists' union, once; for finite weights alone
};

// The way that LAZYNEURON_GPU_DOWN names, "rows" (the default) or "tiles"; throws a std::invalid_argument.
DownPath choose_down_path();

// "down" and kFloat16: "down.f16".
std::string kernel_name(const char* kernel, WeightType type);
// A kernel's signature, with T as the weights' type.
std::string signature_for(std::string signature, WeightType type);

struct DownWeights {
    const void* data;    // [neurons][columns]
    const float* scale;  // [neurons] or null
    const float* bias;   // [columns] or null
};

// What rows keep, in scratch memory.
struct Lists {
    Lists(Carver& carve, std::size_t rows, std::size_t neurons)
        : kept(carve.take<std::int32_t>(rows * neurons)),
          coefficient(carve.take<float>(rows * neurons)),
          counts(carve.take<std::int32_t>(rows)) {}
    std::int32_t* kept;    // [rows][neurons]
    float* coefficient;    // [rows][neurons]
    std::int32_t* counts;  // [rows], or kPoisoned or kSkipped
};

// What rows are gated by.
struct Values {
    const float* values;                  // [rows][neurons]: of all neurons, or of the lists
    const float* factor = nullptr;        // likewise, or null: multiplies the values, activated
    const std::int32_t* index = nullptr;  // [rows][neurons] and [rows], or null: the lists
    const std::int32_t* found = nullptr;
    const float* bias = nullptr;    // [neurons] or null: added to the values
    const float* budget = nullptr;  // [rows] or null
    Activation activation;
    bool by_magnitude;
};

class DownLauncher {
 public:
    // Loads what it needs. Throws a CudaError or a TableError.
    DownLauncher(Modules& modules, WeightType type, DownPath path);

    // `candidates` may be null without lists.
    void select(const Values& values, const SparseDownOptions& options, const DownWeights& down,
                const Lists& lists, std::int32_t* active, std::int32_t* candidates, const GridSizes& sizes,
                CUstream stream) const;
    // y [rows][columns] of the lists. `scratch` comes after them.
    void project(const Lists& lists, const DownWeights& down, Carver& scratch, float* y, GridSizes sizes,
                 CUstream stream) const;
    // Takes from the carver what `project` will.
    void count_scratch(Carver& scratch, const GridSizes& sizes) const;

 private:
    struct Union;
    bool in_parts(const GridSizes& sizes) const;
    void project_rows(const Lists& lists, const DownWeights& down, Carver& scratch, float* y, GridSizes sizes,
                      CUstream stream) const;
    void project_tiles(const Lists& lists, const DownWeights& down, Carver& scratch, float* y,
                       const GridSizes& sizes, CUstream stream) const;

    const Modules& modules_;
    const DownPath path_;
    Kernel select_, down_, reduce_, union_;
};

}  // namespace lazyneuron::cuda
