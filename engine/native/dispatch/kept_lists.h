// What selection leaves of some rows: the neurons each row keeps, and their coefficients.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace lazyneuron {

struct KeptLists {
    std::size_t rows;
    std::size_t stride;    // entries between rows
    std::int32_t* index;   // [rows][stride], ascending in each row
    float* coefficient;    // [rows][stride]
    std::int32_t* counts;  // [rows]; kPoisoned or kSkipped where there is no list
};

// The lists have room for a whole vector after the last neuron, since compaction stores whole vectors. An odd
// number of vectors (cache lines): rows a multiple of a page apart would share a few of the caches' sets.
inline std::size_t list_stride(std::size_t neurons) {
    return (((neurons + kColumnGroup - 1) / kColumnGroup + 1) | 1) * kColumnGroup;
}

// At most how many neurons a row keeps, ceil(budget * top_k) with top_k 0 as all; or kPoisoned or kSkipped.
inline std::int32_t row_limit(std::size_t top_k, std::size_t neurons, const float* budget) {
    const std::size_t most = top_k != 0 ? top_k : neurons;
    if (budget == nullptr) return static_cast<std::int32_t>(most);
    if (std::isnan(*budget)) return kPoisoned;
    if (!(*budget > 0.0f)) return kSkipped;
    const float wanted = std::ceil(*budget * static_cast<float>(most));
    return static_cast<std::int32_t>(wanted < static_cast<float>(neurons) ? static_cast<std::size_t>(wanted)
                                                                          : neurons);
}

}  // namespace lazyneuron
