// SparseMLP on checked arguments. Knows no ONNX Runtime.
//
// A block of rows passes through these phases, each of them parallel:
//     which neurons are candidates   (certified: codes, screen; else: the scores)
//     candidates' exact values       (rows by blocks of neurons that fit the level 2 cache)
//     activation, threshold, top-k   (the selecting kernel on each row's list)
//     down projection                (the accumulating kernels, as in SparseDown)
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/instruction_sets.h"
#include "dispatch/packed_weights.h"
#include "dispatch/parallel.h"
#include "dispatch/screen.h"
#include "dispatch/sparse_down.h"

namespace lazyneuron {

enum class Mode { kCertified, kPredictor, kGate };

struct SparseMlpOptions {
    SparseDownOptions gating;  // activation, top-k, threshold
    Mode mode = Mode::kCertified;
    float score_threshold = 0.0f;
};

// A matrix [neurons][depth] as it was given.
struct NeuronWeights {
    const void* data = nullptr;  // null: there is none
    WeightType type = WeightType::kFloat32;
    const float* scale = nullptr;  // [neurons] or null
};

// One call's tensors. `packed` follows `layout`.
struct SparseMlpTensors {
    std::size_t rows, depth;
    const float* x;  // [rows][depth]
    NeuronWeights up, gate;
    const float* up_bias;  // [neurons] or null
    const float* scores;   // [rows][neurons], null in certified mode
    const Screen* screen;  // certified mode only
    PanelLayout layout;
    const void* packed;
    bool finite;               // see DownProjection
    const float* down_scale;   // [neurons] or null
    const float* down_bias;    // [columns] or null
    const float* budget;       // [rows] or null
    float* y;                  // [rows][columns]
    std::int32_t* active;      // [rows]
    std::int32_t* candidates;  // [rows]
};

// How many bytes `sparse_mlp` needs at `scratch`, aligned to kScratchAlignment.
std::size_t sparse_mlp_scratch_bytes(const SparseMlpOptions& options, const SparseMlpTensors& tensors);

void sparse_mlp(const KernelSet& kernels, const SparseMlpOptions& options, const SparseMlpTensors& tensors,
                char* scratch, const ParallelFor& parallel);

}  // namespace lazyneuron
