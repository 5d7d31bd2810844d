// NEON on aarch64: 4 lanes, 32 registers, FMA and float16 conversion are part of the baseline.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/simd/bits.h"

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

using Float = float32x4_t;
using Int = int32x4_t;
using Mask = uint32x4_t;
constexpr std::size_t kLanes = 4;
constexpr std::size_t kAccumulators = 16;  // one panel of 64 columns, half of the registers
// A block of dense rows: 24 accumulators, 4 weights and a coefficient, of 32 registers.
constexpr std::size_t kDenseRows = 6, kDenseVectors = 4;

inline Float broadcast(float v) { return vdupq_n_f32(v); }
inline Float load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Float v) { vst1q_f32(p, v); }
inline Int lane_numbers() {
    const std::int32_t numbers[4] = {0, 1, 2, 3};
    return vld1q_s32(numbers);
}
inline Int broadcast_int(std::int32_t v) { return vdupq_n_s32(v); }
inline Mask greater_int(Int a, Int b) { return vcgtq_s32(a, b); }
inline Mask first_lanes(std::size_t n) {
    return greater_int(broadcast_int(static_cast<std::int32_t>(n)), lane_numbers());
}
inline Float load_partial(const float* p, std::size_t n) {
    float lanes[kLanes] = {};
    for (std::size_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}
inline Float load_half(const std::uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline Float load_int8(const std::int8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}

inline Float add(Float a, Float b) { return vaddq_f32(a, b); }
inline Float subtract(Float a, Float b) { return vsubq_f32(a, b); }
inline Float multiply(Float a, Float b) { return vmulq_f32(a, b); }
inline Float divide(Float a, Float b) { return vdivq_f32(a, b); }
inline Float multiply_add(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
inline Float magnitude(Float v) { return vabsq_f32(v); }
inline Float at_least_zero(Float v) { return vmaxq_f32(vdupq_n_f32(0.0f), v); }  // a NaN comes through
inline Float maximum(Float a, Float b) { return vmaxq_f32(a, b); }

inline Mask greater(Float a, Float b) { return vcgtq_f32(a, b); }
inline Mask is_nan(Float v) { return vmvnq_u32(vceqq_f32(v, v)); }
inline Mask no_lanes() { return vdupq_n_u32(0); }
inline Mask either(Mask a, Mask b) { return vorrq_u32(a, b); }
inline Mask both(Mask a, Mask b) { return vandq_u32(a, b); }
inline bool any(Mask m) { return vmaxvq_u32(m) != 0; }
inline Float choose(Mask m, Float yes, Float no) { return vbslq_f32(m, yes, no); }

inline Int add_int(Int a, Int b) { return vaddq_s32(a, b); }
inline Int subtract_int(Int a, Int b) { return vsubq_s32(a, b); }
inline Int load_int(const std::int32_t* p) { return vld1q_s32(p); }
inline Int round_to_int(Float v) { return vcvtnq_s32_f32(v); }
inline Float to_float(Int v) { return vcvtq_f32_s32(v); }
inline Int half_int(Int v) { return vshrq_n_s32(v, 1); }
inline Float power_of_two(Int n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
// Drops the low half of the significand, so that the square of what is left is exact.
inline Float leading_bits(Float v) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(~0xFFFu)));
}
inline Int magnitude_bits(Float v) { return vreinterpretq_s32_f32(vabsq_f32(v)); }
inline std::size_t count(Mask m) { return vaddvq_u32(vshrq_n_u32(m, 31)); }

// Writes the chosen lanes, packed; each lane is written and the position moves on only if it was chosen.
inline std::size_t compress(Mask m, Float value, Int index, float* values, std::int32_t* indices) {
    if (!any(m)) return 0;
    float lanes[kLanes];
    std::int32_t numbers[kLanes];
    std::uint32_t chosen[kLanes];
    vst1q_f32(lanes, value);
    vst1q_s32(numbers, index);
    vst1q_u32(chosen, m);
    std::size_t written = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        values[written] = lanes[lane];
        indices[written] = numbers[lane];
        written += chosen[lane] & 1u;
    }
    return written;
}

inline std::uint64_t lane_bits(Mask m) {
    const std::uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, vld1q_u32(weights)));
}
inline void store_int(std::int32_t* p, Int v) { vst1q_s32(p, v); }
inline void sum_lanes(const Float (&v)[4], float* sums) {
    store(sums, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
}

// The screen's bytes: four of a row against four of each of four neurons, both signed. See kernels/screen.h.
using Codes = int8x16_t;
constexpr int kRowCodeLimit = 127, kRowCodeOffset = 0;
constexpr std::size_t kScreenRows = 4, kScreenVectors = 4;
constexpr std::size_t kDotRows = 4;  // of a block of dot products, by 4 neurons: 16 of 32 registers
inline Codes load_codes(const std::int8_t* p) { return vld1q_s8(p); }
inline Codes broadcast_codes(const std::uint8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
inline Int dot_codes(Int sum, Codes row, Codes neuron) {
    const int16x8_t low = vmull_s8(vget_low_s8(row), vget_low_s8(neuron));
    const int16x8_t high = vmull_s8(vget_high_s8(row), vget_high_s8(neuron));
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
}
inline void store_codes(std::uint8_t* p, Int v) {
    std::int32_t lanes[kLanes];
    vst1q_s32(lanes, v);
    for (std::size_t i = 0; i < kLanes; ++i) p[i] = static_cast<std::uint8_t>(lanes[i]);
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
