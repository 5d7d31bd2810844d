// One lane, plain C++: the native reference that every other instruction set is compared with. It is compiled
// with auto-vectorisation off, on every architecture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/simd/bits.h"
#include "kernels/simd/half.h"

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

using Float = float;
using Int = std::int32_t;
using Mask = bool;
constexpr std::size_t kLanes = 1;
constexpr std::size_t kAccumulators = 8;
// A block of dense rows: 8 accumulators, 4 weights and a coefficient, of 16 registers.
constexpr std::size_t kDenseRows = 2, kDenseVectors = 4;

inline std::uint32_t bits_of(float v) {
    std::uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits;
}
inline float from_bits(std::uint32_t bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

inline Float broadcast(float v) { return v; }
inline Float load(const float* p) { return *p; }
inline void store(float* p, Float v) { *p = v; }
inline Mask first_lanes(std::size_t n) { return n != 0; }
inline Float load_partial(const float* p, std::size_t n) { return n != 0 ? *p : 0.0f; }
inline Float load_half(const std::uint16_t* p) { return half_to_float(*p); }
inline Float load_int8(const std::int8_t* p) { return static_cast<float>(*p); }

inline Float add(Float a, Float b) { return a + b; }
inline Float subtract(Float a, Float b) { return a - b; }
inline Float multiply(Float a, Float b) { return a * b; }
inline Float divide(Float a, Float b) { return a / b; }
inline Float multiply_add(Float a, Float b, Float c) { return a * b + c; }
inline Float magnitude(Float v) { return from_bits(bits_of(v) & 0x7FFFFFFFu); }
inline Float at_least_zero(Float v) { return v < 0.0f ? 0.0f : v; }  // a NaN comes through
inline Float maximum(Float a, Float b) { return a > b ? a : b; }

inline Mask greater(Float a, Float b) { return a > b; }
inline Mask is_nan(Float v) { return v != v; }
inline Mask no_lanes() { return false; }
inline Mask either(Mask a, Mask b) { return a || b; }
inline Mask both(Mask a, Mask b) { return a && b; }
inline bool any(Mask m) { return m; }
inline Float choose(Mask m, Float yes, Float no) { return m ? yes : no; }

inline Int broadcast_int(std::int32_t v) { return v; }
inline Int add_int(Int a, Int b) { return a + b; }
inline Int subtract_int(Int a, Int b) { return a - b; }
inline Int load_int(const std::int32_t* p) { return *p; }
inline Int lane_numbers() { return 0; }
// Only for |v| < 2^22, which is all that exp needs: adding 1.5 * 2^23 leaves the integer in the low bits.
inline Int round_to_int(Float v) {
    return static_cast<std::int32_t>(bits_of(v + 12582912.0f)) - static_cast<std::int32_t>(0x4B400000);
}
inline Float to_float(Int v) { return static_cast<float>(v); }
inline Int half_int(Int v) { return v >> 1; }
inline Float power_of_two(Int n) { return from_bits(static_cast<std::uint32_t>(n + 127) << 23); }
// Drops the low half of the significand, so that the square of what is left is exact.
inline Float leading_bits(Float v) { return from_bits(bits_of(v) & ~0xFFFu); }
inline Int magnitude_bits(Float v) { return static_cast<std::int32_t>(bits_of(v) & 0x7FFFFFFFu); }
inline Mask greater_int(Int a, Int b) { return a > b; }
inline std::size_t count(Mask m) { return m; }

inline std::size_t compress(Mask m, Float value, Int index, float* values, std::int32_t* indices) {
    *values = value;
    *indices = index;
    return m;
}

inline std::uint64_t lane_bits(Mask m) { return m; }
inline void store_int(std::int32_t* p, Int v) { *p = v; }
inline void sum_lanes(const Float (&v)[4], float* sums) {
    for (int i = 0; i < 4; ++i) sums[i] = v[i];
}

// The screen's bytes: four of a row against four of a neuron. See kernels/screen.h.
using Codes = std::uint32_t;
constexpr int kRowCodeLimit = 127, kRowCodeOffset = 128;
constexpr std::size_t kScreenRows = 2, kScreenVectors = 2;
constexpr std::size_t kDotRows = 2;  // of a block of dot products, by 4 neurons
inline Codes load_codes(const std::int8_t* p) {
    Codes codes;
    std::memcpy(&codes, p, sizeof codes);
    return codes;
}
inline Codes broadcast_codes(const std::uint8_t* p) {
    Codes codes;
    std::memcpy(&codes, p, sizeof codes);
    return codes;
}
inline Int dot_codes(Int sum, Codes row, Codes neuron) {
    for (int shift = 0; shift < 32; shift += 8) {
        sum += static_cast<Int>((row >> shift) & 0xFFu) * static_cast<std::int8_t>((neuron >> shift) & 0xFFu);
    }
    return sum;
}
inline void store_codes(std::uint8_t* p, Int v) { *p = static_cast<std::uint8_t>(v); }

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
