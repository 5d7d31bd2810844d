// Exact values of chosen neurons: dot products of rows with the up projection's neurons, in float32.
//
// A dot product's order is fixed: kLanes chains, each over every kLanes-th element, then a fixed tree over
// the lanes. Lists of a few neurons and blocks of many rows keep to it alike, so that a value depends neither
// on the other rows nor on which way it was computed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazyneuron {

// Some rows against the neurons of one block. Row r of the arguments is row rows[r] of x, and of the lists.
struct ProjectArguments {
    const void* weights;  // [neurons][depth]
    std::size_t depth;
    const float* scale;        // [neurons] or null: multiplies the sum
    const float* bias;         // [neurons] or null: then added
    std::size_t first, last;   // the block's neurons
    const float* x;            // [...][depth]
    const std::int32_t* rows;  // [count]
    std::size_t count;
    const std::int32_t* bounds;  // [...][bounds_stride]: a row's part of its list begins at [0], ends at [1]
    std::size_t bounds_stride;
    const std::int32_t* index;  // [...][list_stride], ascending
    float* value;               // [...][list_stride]
    std::size_t list_stride;
};

}  // namespace lazyneuron
