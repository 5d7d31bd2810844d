#include "dispatch/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lazyneuron {
namespace {

#if defined(__x86_64__)
constexpr bool has(unsigned bits, unsigned bit) { return ((bits >> bit) & 1u) != 0; }

// Which register files the operating system saves: bit 1 SSE, 2 AVX, 5 to 7 AVX-512.
unsigned saved_registers() {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Bit numbers from the Intel SDM, volume 2, CPUID leaves 1 and 7.
CpuFeatures detect() {
    CpuFeatures features;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
    const bool fma = has(c, 12), popcnt = has(c, 23), osxsave = has(c, 27), avx = has(c, 28),
               f16c = has(c, 29);
    if (!osxsave || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
    const unsigned saved = saved_registers();
    features.avx2 = (saved & 0x06u) == 0x06u && fma && popcnt && f16c && has(b, 5);
    features.avx512 =
        features.avx2 && (saved & 0xE6u) == 0xE6u && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);
    features.avx512vnni = features.avx512 && has(c, 11);
    return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

}  // namespace lazyneuron
