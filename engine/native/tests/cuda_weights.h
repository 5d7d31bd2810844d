// Weights of every type as numbers, for the kernels' meaning and for the tests' data.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_stand_in.h"

namespace lazyneuron::testing {

inline float half_to_float(std::uint16_t half) {
    const int exponent = (half >> 10) & 31, fraction = half & 1023;
    const float sign = (half & 0x8000u) != 0 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

inline float bfloat_to_float(std::uint16_t upper) {
    const std::uint32_t wide = static_cast<std::uint32_t>(upper) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

// For normal numbers that the type holds exactly.
inline std::uint16_t float_to_half(float value) {
    if (value == 0.0f) return 0;
    int exponent;
    const float fraction = std::frexp(std::fabs(value), &exponent);
    const auto significand = static_cast<unsigned>(std::ldexp(fraction, 11)) & 1023u;
    const unsigned sign = value < 0.0f ? 0x8000u : 0u;
    return static_cast<std::uint16_t>(sign | static_cast<unsigned>(exponent + 14) << 10 | significand);
}

inline std::uint16_t float_to_bfloat(float value) { return static_cast<std::uint16_t>(bits(value) >> 16); }

// A kernel's weights, each as a float.
class Weights {
 public:
    Weights(const KernelCall& call, std::size_t parameter, std::size_t count)
        : type_(call.weights()),
          data_(call.array<char>(parameter, count * (type_ == "f32"  ? 4
                                                     : type_ == "i8" ? 1
                                                                     : 2))) {}

    float operator[](std::size_t i) const {
        if (type_ == "f32") return reinterpret_cast<const float*>(data_)[i];
        if (type_ == "i8") return static_cast<signed char>(data_[i]);
        const std::uint16_t half = reinterpret_cast<const std::uint16_t*>(data_)[i];
        return type_ == "f16" ? half_to_float(half) : bfloat_to_float(half);
    }

 private:
    const std::string type_;
    const char* const data_;
};

}  // namespace lazyneuron::testing
