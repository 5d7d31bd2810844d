// AVX2 with FMA and F16C: 8 lanes, masks are vectors.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/simd/bits.h"

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

using Float = __m256;
using Int = __m256i;
using Mask = __m256;
constexpr std::size_t kLanes = 8;
constexpr std::size_t kAccumulators = 8;  // one panel of 64 columns, half of the registers
// A block of dense rows: 12 accumulators, 2 weights and a coefficient, of 16 registers.
constexpr std::size_t kDenseRows = 6, kDenseVectors = 2;

inline Float broadcast(float v) { return _mm256_set1_ps(v); }
inline Float load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
inline Int lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
inline Int broadcast_int(std::int32_t v) { return _mm256_set1_epi32(v); }
inline Mask greater_int(Int a, Int b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
inline Mask first_lanes(std::size_t n) {
    return greater_int(broadcast_int(static_cast<std::int32_t>(n)), lane_numbers());
}
inline Float load_partial(const float* p, std::size_t n) {
    return _mm256_maskload_ps(p, _mm256_castps_si256(first_lanes(n)));
}
inline Float load_half(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Float load_int8(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

inline Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
inline Float subtract(Float a, Float b) { return _mm256_sub_ps(a, b); }
inline Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
inline Float divide(Float a, Float b) { return _mm256_div_ps(a, b); }
inline Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
inline Float magnitude(Float v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
// The operand order makes a NaN in v come through.
inline Float at_least_zero(Float v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }
inline Float maximum(Float a, Float b) { return _mm256_max_ps(a, b); }

inline Mask greater(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline Mask is_nan(Float v) { return _mm256_cmp_ps(v, v, _CMP_UNORD_Q); }
inline Mask no_lanes() { return _mm256_setzero_ps(); }
inline Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
inline Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline bool any(Mask m) { return _mm256_movemask_ps(m) != 0; }
inline Float choose(Mask m, Float yes, Float no) { return _mm256_blendv_ps(no, yes, m); }

inline Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
inline Int subtract_int(Int a, Int b) { return _mm256_sub_epi32(a, b); }
inline Int load_int(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Int round_to_int(Float v) {
    return _mm256_cvtps_epi32(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Float to_float(Int v) { return _mm256_cvtepi32_ps(v); }
inline Int half_int(Int v) { return _mm256_srai_epi32(v, 1); }
inline Float power_of_two(Int n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
// Drops the low half of the significand, so that the square of what is left is exact.
inline Float leading_bits(Float v) {
    return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(~0xFFF)));
}
inline Int magnitude_bits(Float v) {
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF));
}
inline std::size_t count(Mask m) {
    return static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(m))));
}

// AVX2 cannot compress, but it can permute by a vector: a table of 256 permutations of 8 bytes (2 KiB, a
// sixteenth of the level 1 cache) holds, for each mask, the chosen lanes first.
struct PermutationTable {
    std::uint64_t lanes[256];
    constexpr PermutationTable() : lanes() {
        for (unsigned mask = 0; mask < 256; ++mask) {
            unsigned written = 0;
            for (unsigned lane = 0; lane < 8; ++lane) {
                if ((mask >> lane) & 1u) lanes[mask] |= static_cast<std::uint64_t>(lane) << (8 * written++);
            }
        }
    }
};
constexpr PermutationTable kPermutations;

// Writes the chosen lanes, packed, and garbage up to a full vector after them.
inline std::size_t compress(Mask m, Float value, Int index, float* values, std::int32_t* indices) {
    const unsigned mask = static_cast<unsigned>(_mm256_movemask_ps(m));
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kPermutations.lanes[mask])));
    _mm256_storeu_ps(values, _mm256_permutevar8x32_ps(value, order));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(indices), _mm256_permutevar8x32_epi32(index, order));
    return static_cast<std::size_t>(__builtin_popcount(mask));
}

inline std::uint64_t lane_bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
inline void store_int(std::int32_t* p, Int v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline void sum_lanes(const Float (&v)[4], float* sums) {
    const Float ab = add(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
    const Float cd = add(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
    const Float abcd = add(_mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                           _mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

// The screen's bytes: four of a row against four of each of eight neurons. See kernels/screen.h.
//
// vpmaddubsw adds two products in 16 bits and saturates: a row's codes have 7 bits here, so that
// 2 * 127 * 127 stays below 2^15. The neurons' keep 8.
using Codes = __m256i;
constexpr int kRowCodeLimit = 63, kRowCodeOffset = 64;
constexpr std::size_t kScreenRows = 4, kScreenVectors = 2;  // 8 of 16 registers
constexpr std::size_t kDotRows = 3;  // of a block of dot products, by 4 neurons: 12 of 16 registers
inline Codes load_codes(const std::int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Codes broadcast_codes(const std::uint8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}
inline Int dot_codes(Int sum, Codes row, Codes neuron) {
    const __m256i pairs = _mm256_maddubs_epi16(row, neuron);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// The values are 0 to 127, which both saturating steps leave alone.
inline void store_codes(std::uint8_t* p, Int v) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
