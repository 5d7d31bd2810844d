// float16 to float32 without hardware help, exact for every value.
#pragma once

#include <cstdint>
#include <cstring>

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

// A normal half needs its exponent moved from bias 15 to 127. Infinities and NaNs need the rest of the way to
// 255. A subnormal half becomes a normal float by adding one to the exponent field and subtracting that one's
// value again; no intermediate is a subnormal float, so flush-to-zero modes do no harm.
inline float half_to_float(std::uint16_t half) {
    const std::uint32_t exponent = half & 0x7C00u;
    std::uint32_t bits = (static_cast<std::uint32_t>(half & 0x7FFFu) << 13) + ((127u - 15u) << 23);
    if (exponent == 0x7C00u) bits += (255u - 31u - 112u) << 23;
    if (exponent == 0) bits += 1u << 23;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    if (exponent == 0) value -= 6.103515625e-05f;  // 2^-14
    std::memcpy(&bits, &value, sizeof value);
    bits |= static_cast<std::uint32_t>(half & 0x8000u) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
