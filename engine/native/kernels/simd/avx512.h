// AVX-512 (F, BW, DQ, VL): 16 lanes, real mask registers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

using Float = __m512;
using Int = __m512i;
using Mask = __mmask16;
constexpr std::size_t kLanes = 16;
constexpr std::size_t kAccumulators = 4;  // one panel of 64 columns

inline Float broadcast(float v) { return _mm512_set1_ps(v); }
inline Float load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
inline Mask first_lanes(std::size_t n) { return static_cast<Mask>((1u << n) - 1u); }
inline Float load_partial(const float* p, std::size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline Float load_half(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Float load_int8(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

inline Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
inline Float subtract(Float a, Float b) { return _mm512_sub_ps(a, b); }
inline Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
inline Float divide(Float a, Float b) { return _mm512_div_ps(a, b); }
inline Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
inline Float magnitude(Float v) { return _mm512_abs_ps(v); }
// The operand order makes a NaN in v come through.
inline Float at_least_zero(Float v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }
inline Float maximum(Float a, Float b) { return _mm512_max_ps(a, b); }

inline Mask greater(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask is_nan(Float v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q); }
inline Mask no_lanes() { return 0; }
inline Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
inline Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
inline bool any(Mask m) { return m != 0; }
inline Float choose(Mask m, Float yes, Float no) { return _mm512_mask_blend_ps(m, no, yes); }

inline Int broadcast_int(std::int32_t v) { return _mm512_set1_epi32(v); }
inline Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
inline Int load_int(const std::int32_t* p) { return _mm512_loadu_si512(p); }
inline Int lane_numbers() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline Int round_to_int(Float v) {
    return _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
inline Int half_int(Int v) { return _mm512_srai_epi32(v, 1); }
inline Int subtract_int(Int a, Int b) { return _mm512_sub_epi32(a, b); }
inline Float power_of_two(Int n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
// Drops the low half of the significand, so that the square of what is left is exact.
inline Float leading_bits(Float v) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(~0xFFF)));
}
inline Int magnitude_bits(Float v) {
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF));
}
inline Mask greater_int(Int a, Int b) { return _mm512_cmpgt_epi32_mask(a, b); }
inline std::size_t count(Mask m) { return static_cast<std::size_t>(__builtin_popcount(m)); }

// Writes the chosen lanes, packed, and garbage up to a full vector after them. Compressing in a register and
// storing all of it is much faster than the compressing store, which is microcode on Zen 4.
inline std::size_t compress(Mask m, Float value, Int index, float* values, std::int32_t* indices) {
    _mm512_storeu_ps(values, _mm512_maskz_compress_ps(m, value));
    _mm512_storeu_si512(indices, _mm512_maskz_compress_epi32(m, index));
    return count(m);
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
