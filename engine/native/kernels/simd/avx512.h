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
// A block of dense rows: 24 accumulators, 4 weights and a coefficient, of 32 registers.
constexpr std::size_t kDenseRows = 6, kDenseVectors = 4;

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

inline std::uint64_t lane_bits(Mask m) { return m; }
inline void store_int(std::int32_t* p, Int v) { _mm512_storeu_si512(p, v); }
inline void sum_lanes(const Float (&v)[4], float* sums) {
    const Float ab = add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const Float cd = add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const Float abcd = add(_mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                           _mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

// The screen's bytes: four of a row against four of each of sixteen neurons. See kernels/screen.h.
using Codes = __m512i;
constexpr std::size_t kScreenRows = 6, kScreenVectors = 4;  // 24 of 32 registers
constexpr std::size_t kDotRows = 4;  // of a block of dot products, by 4 neurons: 16 of 32 registers
inline Codes load_codes(const std::int8_t* p) { return _mm512_loadu_si512(p); }
inline Codes broadcast_codes(const std::uint8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}
#ifdef __AVX512VNNI__
constexpr int kRowCodeLimit = 127, kRowCodeOffset = 128;
// Not the intrinsic: GCC 12 then keeps the accumulators of a large block in memory as well.
inline Int dot_codes(Int sum, Codes row, Codes neuron) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(neuron));
    return sum;
}
#else
// vpmaddubsw saturates, see avx2.h: 7 bits in a row's codes.
constexpr int kRowCodeLimit = 63, kRowCodeOffset = 64;
inline Int dot_codes(Int sum, Codes row, Codes neuron) {
    const __m512i pairs = _mm512_maddubs_epi16(row, neuron);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
// The set bits of a word as a list: first + n for each set bit n; returns how many. Writes garbage up to a
// full vector after them.
inline std::size_t list_bits(std::uint64_t bits, std::int32_t first, std::int32_t* index) {
    std::size_t written = 0;
    for (; bits != 0; bits >>= kLanes, first += static_cast<std::int32_t>(kLanes)) {
        const Mask group = static_cast<Mask>(bits);
        const Int numbers = add_int(lane_numbers(), broadcast_int(first));
        _mm512_storeu_si512(index + written, _mm512_maskz_compress_epi32(group, numbers));
        written += count(group);
    }
    return written;
}
inline void store_codes(std::uint8_t* p, Int v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
