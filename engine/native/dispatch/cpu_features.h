// What this processor and its operating system can run.
#pragma once

namespace lazyneuron {

struct CpuFeatures {
    bool avx2 = false;        // AVX2, FMA, F16C and POPCNT, with the 256-bit registers saved by the system
    bool avx512 = false;      // and AVX-512 F, BW, DQ, VL, with the 512-bit registers saved by the system
    bool avx512vnni = false;  // and AVX-512 VNNI
};

const CpuFeatures& cpu_features();

}  // namespace lazyneuron
