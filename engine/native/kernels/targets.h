// What each instruction set's translation units define. A namespace exists only in builds for its
// architecture.
#pragma once

#include "kernels/kernels.h"

// In the order of the algorithm sources: select.cc, accumulate.cc, screen.cc, project.cc.
#define LAZYNEURON_DECLARE_KERNELS(target)                                                  \
    namespace lazyneuron::target {                                                          \
    std::int32_t select(const SelectArguments&, std::int32_t* index, float* coef);          \
    void accumulate_float32(const AccumulateArguments&);                                    \
    void accumulate_float16(const AccumulateArguments&);                                    \
    void accumulate_int8(const AccumulateArguments&);                                       \
    std::uint64_t calls();                                                                  \
    int row_code_offset();                                                                  \
    QuantizedRow quantize(const QuantizeArguments&, std::uint8_t* codes);                   \
    void screen(const ScreenArguments&);                                                    \
    std::int32_t list_mask(const std::uint64_t*, std::size_t, std::int32_t, std::int32_t*); \
    void project_float32(const ProjectArguments&);                                          \
    void project_float16(const ProjectArguments&);                                          \
    void project_int8(const ProjectArguments&);                                             \
    void multiply_by_gate(Activation, const float*, float*, std::size_t);                   \
    std::int32_t compact_above(const float*, std::size_t, float, std::int32_t*);            \
    }

LAZYNEURON_DECLARE_KERNELS(scalar)
LAZYNEURON_DECLARE_KERNELS(sse2)
LAZYNEURON_DECLARE_KERNELS(avx2)
LAZYNEURON_DECLARE_KERNELS(avx512)
LAZYNEURON_DECLARE_KERNELS(avx512vnni)
LAZYNEURON_DECLARE_KERNELS(neon)
