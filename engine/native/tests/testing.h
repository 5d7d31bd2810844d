// The little that these tests need of a framework: checks that count, and reproducible data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>
#include <string>
#include <vector>

namespace lazyneuron::testing {

inline int failures = 0;

// Prints where and in which case; goes on, so that one run shows all that is wrong.
inline void check(bool holds, const char* expression, const char* file, int line,
                  const std::string& context) {
    if (holds) return;
    if (++failures <= 20) std::printf("%s:%d: not so: %s (%s)\n", file, line, expression, context.c_str());
}

#define CHECK(expression, context) \
    ::lazyneuron::testing::check(static_cast<bool>(expression), #expression, __FILE__, __LINE__, context)

inline int result() {
    std::printf(failures == 0 ? "passed\n" : "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}

// What the exception says, or nothing.
template <class Body>
std::string message_of(const Body& body) {
    try {
        body();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Sizes around the vector widths 4, 8 and 16.
inline const std::vector<std::size_t>& sizes() {
    static const std::vector<std::size_t> values = {1,  2,  3,  4,  5,  7,  8,  9,  15,
                                                    16, 17, 31, 32, 33, 63, 64, 65, 130};
    return values;
}

inline std::uint32_t bits(float value) {
    std::uint32_t out;
    std::memcpy(&out, &value, sizeof out);
    return out;
}

// Equal to the bit; any NaN equals any other.
inline bool same(float a, float b) { return bits(a) == bits(b) || (a != a && b != b); }

// Values of which about a share is positive. A multiple of `step`, if one is given, so that ties are common.
inline std::vector<float> random_values(std::size_t size, double positive, unsigned seed, float step = 0.0f) {
    std::mt19937 random(seed);
    std::vector<float> values(size);
    for (float& value : values) {
        const float magnitude = 0.01f + static_cast<float>(random() % 4000) / 1000.0f;
        value = static_cast<double>(random() % 1000) / 1000.0 < positive ? magnitude : -magnitude;
        if (step != 0.0f) value = static_cast<float>(static_cast<int>(value / step)) * step;
    }
    return values;
}

}  // namespace lazyneuron::testing
