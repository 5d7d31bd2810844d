// What each instruction set's translation units define. A namespace exists only in builds for its
// architecture.
#pragma once

#include "kernels/kernels.h"

// One definition per algorithm source: select.cc the first, accumulate.cc the others.
#define LAZYNEURON_DECLARE_KERNELS(target)                                         \
    namespace lazyneuron::target {                                                 \
    std::int32_t select(const SelectArguments&, std::int32_t* index, float* coef); \
    void accumulate_float32(const AccumulateArguments&);                           \
    void accumulate_float16(const AccumulateArguments&);                           \
    void accumulate_int8(const AccumulateArguments&);                              \
    std::uint64_t calls();                                                         \
    }

LAZYNEURON_DECLARE_KERNELS(scalar)
LAZYNEURON_DECLARE_KERNELS(sse2)
LAZYNEURON_DECLARE_KERNELS(avx2)
LAZYNEURON_DECLARE_KERNELS(avx512)
LAZYNEURON_DECLARE_KERNELS(neon)
