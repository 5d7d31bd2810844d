// SSE2, the x86-64 baseline: 4 lanes, masks are vectors; no FMA, no blend, no variable shuffle.
#pragma once

#include <emmintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/simd/bits.h"

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

using Float = __m128;
using Int = __m128i;
using Mask = __m128;
constexpr std::size_t kLanes = 4;
constexpr std::size_t kAccumulators = 8;  // half of the registers; a panel of 64 columns takes two passes
// A block of dense rows: 12 accumulators, 2 weights and a coefficient, of 16 registers.
constexpr std::size_t kDenseRows = 6, kDenseVectors = 2;

inline Float broadcast(float v) { return _mm_set1_ps(v); }
inline Float load(const float* p) { return _mm_loadu_ps(p); }
inline void store(float* p, Float v) { _mm_storeu_ps(p, v); }
inline Int lane_numbers() { return _mm_setr_epi32(0, 1, 2, 3); }
inline Int broadcast_int(std::int32_t v) { return _mm_set1_epi32(v); }
inline Mask greater_int(Int a, Int b) { return _mm_castsi128_ps(_mm_cmpgt_epi32(a, b)); }
inline Mask first_lanes(std::size_t n) {
    return greater_int(broadcast_int(static_cast<std::int32_t>(n)), lane_numbers());
}
inline Float load_partial(const float* p, std::size_t n) {
    float lanes[kLanes] = {};
    for (std::size_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}
// simd/half.h's conversion, four at a time.
inline Float load_half(const std::uint16_t* p) {
    const __m128i half =
        _mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128());
    const __m128i exponent = _mm_and_si128(half, _mm_set1_epi32(0x7C00));
    const __m128i special = _mm_cmpeq_epi32(exponent, _mm_set1_epi32(0x7C00));
    const __m128i subnormal = _mm_cmpeq_epi32(exponent, _mm_setzero_si128());
    __m128i bits = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7FFF)), 13);
    bits = _mm_add_epi32(bits, _mm_set1_epi32(112 << 23));
    bits = _mm_add_epi32(bits, _mm_and_si128(special, _mm_set1_epi32(112 << 23)));
    bits = _mm_add_epi32(bits, _mm_and_si128(subnormal, _mm_set1_epi32(1 << 23)));
    const __m128 offset = _mm_and_ps(_mm_castsi128_ps(subnormal), _mm_set1_ps(6.103515625e-05f));
    const __m128 shifted = _mm_sub_ps(_mm_castsi128_ps(bits), offset);
    const __m128i sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
    return _mm_or_ps(shifted, _mm_castsi128_ps(sign));
}
inline Float load_int8(const std::int8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const __m128i bytes = _mm_cvtsi32_si128(four);
    const __m128i words = _mm_unpacklo_epi8(bytes, bytes);
    return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(words, words), 24));
}

inline Float add(Float a, Float b) { return _mm_add_ps(a, b); }
inline Float subtract(Float a, Float b) { return _mm_sub_ps(a, b); }
inline Float multiply(Float a, Float b) { return _mm_mul_ps(a, b); }
inline Float divide(Float a, Float b) { return _mm_div_ps(a, b); }
inline Float multiply_add(Float a, Float b, Float c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
inline Float magnitude(Float v) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), v); }
// The operand order makes a NaN in v come through.
inline Float at_least_zero(Float v) { return _mm_max_ps(_mm_setzero_ps(), v); }
inline Float maximum(Float a, Float b) { return _mm_max_ps(a, b); }

inline Mask greater(Float a, Float b) { return _mm_cmpgt_ps(a, b); }
inline Mask is_nan(Float v) { return _mm_cmpunord_ps(v, v); }
inline Mask no_lanes() { return _mm_setzero_ps(); }
inline Mask either(Mask a, Mask b) { return _mm_or_ps(a, b); }
inline Mask both(Mask a, Mask b) { return _mm_and_ps(a, b); }
inline bool any(Mask m) { return _mm_movemask_ps(m) != 0; }
inline Float choose(Mask m, Float yes, Float no) {
    return _mm_or_ps(_mm_and_ps(m, yes), _mm_andnot_ps(m, no));
}

inline Int add_int(Int a, Int b) { return _mm_add_epi32(a, b); }
inline Int subtract_int(Int a, Int b) { return _mm_sub_epi32(a, b); }
inline Int load_int(const std::int32_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline Int round_to_int(Float v) { return _mm_cvtps_epi32(v); }  // to nearest: the mode that ABIs require
inline Float to_float(Int v) { return _mm_cvtepi32_ps(v); }
inline Int half_int(Int v) { return _mm_srai_epi32(v, 1); }
inline Float power_of_two(Int n) {
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(n, _mm_set1_epi32(127)), 23));
}
// Drops the low half of the significand, so that the square of what is left is exact.
inline Float leading_bits(Float v) { return _mm_and_ps(v, _mm_castsi128_ps(_mm_set1_epi32(~0xFFF))); }
inline Int magnitude_bits(Float v) { return _mm_and_si128(_mm_castps_si128(v), _mm_set1_epi32(0x7FFFFFFF)); }
inline std::size_t count(Mask m) {
    const unsigned bits = static_cast<unsigned>(_mm_movemask_ps(m));
    return (bits & 1u) + ((bits >> 1) & 1u) + ((bits >> 2) & 1u) + (bits >> 3);  // no popcnt in the baseline
}

// Writes the chosen lanes, packed; each lane is written and the position moves on only if it was chosen.
inline std::size_t compress(Mask m, Float value, Int index, float* values, std::int32_t* indices) {
    float lanes[kLanes];
    std::int32_t numbers[kLanes];
    const unsigned bits = static_cast<unsigned>(_mm_movemask_ps(m));
    if (bits == 0) return 0;
    store(lanes, value);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers), index);
    std::size_t written = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        values[written] = lanes[lane];
        indices[written] = numbers[lane];
        written += (bits >> lane) & 1u;
    }
    return written;
}

inline std::uint64_t lane_bits(Mask m) { return static_cast<std::uint64_t>(_mm_movemask_ps(m)); }
inline void store_int(std::int32_t* p, Int v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
inline void sum_lanes(const Float (&v)[4], float* sums) {
    Float a = v[0], b = v[1], c = v[2], d = v[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    store(sums, add(add(a, b), add(c, d)));
}

// The screen's bytes: four of a row against four of each of four neurons. See kernels/screen.h.
using Codes = __m128i;
constexpr int kRowCodeLimit = 127, kRowCodeOffset = 128;
constexpr std::size_t kScreenRows = 2, kScreenVectors = 2;
constexpr std::size_t kDotRows = 2;  // of a block of dot products, by 4 neurons: 8 of 16 registers
inline Codes load_codes(const std::int8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline Codes broadcast_codes(const std::uint8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm_set1_epi32(four);
}
// Widened to 16 bits, since the baseline multiplies no bytes; each pair of sums is then one neuron's.
inline Int dot_codes(Int sum, Codes row, Codes neuron) {
    const __m128i wide = _mm_unpacklo_epi8(row, _mm_setzero_si128());
    const __m128i low = _mm_madd_epi16(wide, _mm_srai_epi16(_mm_unpacklo_epi8(neuron, neuron), 8));
    const __m128i high = _mm_madd_epi16(wide, _mm_srai_epi16(_mm_unpackhi_epi8(neuron, neuron), 8));
    const __m128 l = _mm_castsi128_ps(low), h = _mm_castsi128_ps(high);
    const __m128i even = _mm_castps_si128(_mm_shuffle_ps(l, h, _MM_SHUFFLE(2, 0, 2, 0)));
    const __m128i odd = _mm_castps_si128(_mm_shuffle_ps(l, h, _MM_SHUFFLE(3, 1, 3, 1)));
    return _mm_add_epi32(sum, _mm_add_epi32(even, odd));
}
// The values are 0 to 255, which both saturating steps leave alone.
inline void store_codes(std::uint8_t* p, Int v) {
    const __m128i words = _mm_packs_epi32(v, v);
    const std::int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    __builtin_memcpy(p, &four, sizeof four);
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
