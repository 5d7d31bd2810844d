// SparseDown on checked arguments: rows in blocks, two parallel phases a block. Knows no ONNX Runtime.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/instruction_sets.h"
#include "dispatch/packed_weights.h"
#include "dispatch/parallel.h"
#include "dispatch/scratch_pool.h"

namespace lazyneuron {

struct SparseDownOptions {
    Activation activation = Activation::kRelu;
    std::size_t top_k = 0;  // 0: no cap
    float threshold = 0.0f;
};

// One call's tensors. `packed` follows `layout`.
struct SparseDownTensors {
    std::size_t rows;
    const float* pre;  // [rows][neurons]
    PanelLayout layout;
    const void* packed;
    bool finite;             // see DownProjection
    const float* up_bias;    // [neurons] or null
    const float* down_bias;  // [columns] or null
    const float* budget;     // [rows] or null
    const float* scale;      // [neurons] or null
    float* y;                // [rows][columns]
    std::int32_t* active;    // [rows]
};

// Rows are done in blocks, so that the lists of kept neurons (8 bytes a neuron, and 4 a row) stay below this;
// a single row that needs more gets it.
constexpr std::size_t kListBytes = 16 * 1024 * 1024;

// How many bytes `sparse_down` needs at `scratch`, aligned to kScratchAlignment.
std::size_t sparse_down_scratch_bytes(std::size_t rows, std::size_t neurons);

void sparse_down(const KernelSet& kernels, const SparseDownOptions& options, const SparseDownTensors& tensors,
                 char* scratch, const ParallelFor& parallel);

}  // namespace lazyneuron
