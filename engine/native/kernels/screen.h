// The certified screen: which neurons of a row could be above the threshold, found out in int8.
//
// A neuron's codes q are round(w / s_w), -127 to 127; a row's codes are round(z) with z = x * inverse, as
// large as kRowCodeLimit, and stored as bytes after adding kRowCodeOffset, since the fast instructions
// multiply unsigned bytes by signed ones. The correction, -offset * sum(q), starts each sum.
//
// Everything is compared in units of s_w / inverse, where codes are of size one. There the exact value
// differs from q.round(z) by at most |w / s_w - q| * |z| + |q| * |z - round(z)|, so that a neuron may be
// skipped when
//
//     q.round(z) + constant * inverse + spread * |z| + size * |z - round(z)| <= 0
//
// with constant = (bias - threshold) / s_w, spread = |w / s_w - q| and size = |q|, each a little enlarged by
// whoever made them (dispatch/screen.cc), so that no rounding of the left side makes the test unsound.
//
// Packed codes: panels of kScreenPanel neurons; in a panel the depth goes in steps of four, and a step holds
// the four codes of its first neuron, of its second, ...: [depth / 4][kScreenPanel][4].
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazyneuron {

constexpr std::size_t kScreenPanel = 64;  // neurons: a mask of them is one word
constexpr std::size_t kScreenStep = 4;    // codes of a neuron that an instruction works on

// What the test needs of each row, [rows] each.
struct RowTerms {
    float* inverse;
    float* norm;      // |z|
    float* residual;  // |z - round(z)|
};

// Some rows of x -> codes and terms.
struct QuantizeArguments {
    const float* x;  // [depth], one row
    std::size_t depth;
    const float* shift;    // [depth] or null: subtracted
    const float* stretch;  // [depth] or null: multiplies what is left
    const float* draw;     // [depth] or null: rounds z to floor(z + draw), else to the nearest
};
struct QuantizedRow {
    float inverse;  // z = (x - shift) * stretch * inverse
    float norm;     // |z| and |z - round(z)|, as floats add them up
    float residual;
    bool finite;  // else the others mean nothing
};

// Some rows against one panel.
struct ScreenArguments {
    const std::int8_t* panel;
    const std::uint8_t* codes;  // [rows][code_stride]
    std::size_t code_stride;
    std::size_t depth;  // a multiple of kScreenStep
    std::size_t rows;
    const std::int32_t* start;  // [kScreenPanel]: the sums' correction
    const float* constant;      // [kScreenPanel]
    const float* spread;        // [kScreenPanel]
    const float* size;          // [kScreenPanel]
    RowTerms terms;
    std::uint64_t* mask;  // [rows], mask_stride words apart: bit n is set unless neuron n may be skipped
    std::size_t mask_stride;
    const char* fetch;  // what will be read next, or null: prefetched as far as there is time for it
    std::size_t fetch_bytes;
};

}  // namespace lazyneuron
