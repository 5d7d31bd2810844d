// The kernels' interface: pointers and sizes only. Nothing here allocates, throws or checks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazyneuron {

enum class Activation { kRelu, kRelu2, kGelu, kGeluTanh, kSilu, kIdentity };
enum class WeightType { kFloat32, kFloat16, kInt8, kBFloat16 };  // the last on a GPU alone

// How many of them have kernels here.
constexpr int kWeightTypes = 3;

// Panels are multiples of this many columns, whatever the instruction set: one AVX-512 vector of floats.
constexpr std::size_t kColumnGroup = 16;

// And no panel is wider than this: four AVX-512 accumulators.
constexpr std::size_t kWidestPanel = 64;

// A row's count of kept neurons, or one of these.
constexpr std::int32_t kPoisoned = -1;  // the row holds a NaN: its output is NaN
constexpr std::int32_t kSkipped = -2;   // the row has no budget: its output is zero
constexpr std::int32_t kDense = -3;     // no list: there is a coefficient for every neuron, mostly not zero

// One row of neurons before the activation.
struct SelectArguments {
    const float* pre;      // [neurons]
    const float* up_bias;  // [neurons] or null
    const float* scale;    // [neurons] or null: multiplies the values of the neurons that are kept
    std::size_t neurons;
    Activation activation;
    float threshold;   // >= 0
    std::size_t keep;  // at most this many neurons, >= 1
};

// Some rows of one panel of the down projection. The rows' lists lie `list_stride` entries apart.
struct AccumulateArguments {
    const void* panel;    // [neurons][width], see dispatch/packed_weights.h
    std::size_t width;    // elements between neurons, a multiple of kColumnGroup, <= kWidestPanel
    const float* bias;    // [columns] or null
    std::size_t columns;  // <= width
    std::size_t neurons;  // of the panel: what a dense row has coefficients for
    std::size_t rows;
    const std::int32_t* counts;  // [rows]
    const std::int32_t* index;   // [rows][list_stride], ascending in each row
    const float* coefficient;    // [rows][list_stride]
    std::size_t list_stride;
    float* y;  // [rows][y_stride]
    std::size_t y_stride;
};

// See kernels/screen.h and kernels/project.h.
struct QuantizeArguments;
struct QuantizedRow;
struct ScreenArguments;
struct ProjectArguments;

// An instruction set's kernels.
struct KernelSet {
    // Bias, activation, threshold, compaction and top-k in one pass. `index` and `coefficient` have room for
    // `neurons` rounded up to kColumnGroup. Returns how many neurons are kept (their indices ascend), or
    // kPoisoned.
    std::int32_t (*select)(const SelectArguments&, std::int32_t* index, float* coefficient);
    // For each row: y = bias + sum over the kept neurons, in their order, of coefficient * weights.
    void (*accumulate[kWeightTypes])(const AccumulateArguments&);  // by WeightType

    // The certified screen. What is added to a row's codes before they are stored.
    int (*row_code_offset)();
    // A row's codes and terms. `codes` has room for the depth rounded up to kColumnGroup.
    QuantizedRow (*quantize)(const QuantizeArguments&, std::uint8_t* codes);
    void (*screen)(const ScreenArguments&);
    // first + n for each set bit n of a mask, ascending; returns how many. `index` has room for kColumnGroup
    // more.
    std::int32_t (*list_mask)(const std::uint64_t* mask, std::size_t words, std::int32_t first,
                              std::int32_t* index);
    // The neurons whose score is above the threshold; `index` has room for `count` rounded up to
    // kColumnGroup. Returns how many they are, or kPoisoned.
    std::int32_t (*compact_above)(const float* scores, std::size_t count, float threshold,
                                  std::int32_t* index);
    // Exact values of the listed neurons.
    void (*project[kWeightTypes])(const ProjectArguments&);  // by WeightType
    // value = activation(gate) * value.
    void (*multiply_by_gate)(Activation, const float* gate, float* value, std::size_t count);

    // How often `accumulate` of this very set has been entered; tests ask it which set ran.
    std::uint64_t (*calls)();
};

}  // namespace lazyneuron
