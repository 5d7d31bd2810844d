#include "dispatch/instruction_sets.h"

#include "dispatch/cpu_features.h"
#include "kernels/project.h"
#include "kernels/screen.h"
#include "kernels/targets.h"

namespace lazyneuron {
namespace {

#define LAZYNEURON_KERNELS(target)                                                                           \
    KernelSet {                                                                                              \
        target::select, {target::accumulate_float32, target::accumulate_float16, target::accumulate_int8},   \
            target::row_code_offset, target::quantize, target::screen, target::list_mask,                    \
            target::compact_above, {target::project_float32, target::project_float16, target::project_int8}, \
            target::multiply_by_gate, target::calls                                                          \
    }

std::vector<InstructionSet> list() {
    std::vector<InstructionSet> sets;
    sets.push_back({"scalar", "plain C++, not vectorised", true, LAZYNEURON_KERNELS(scalar)});
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    sets.push_back({"sse2", "the x86-64 baseline", true, LAZYNEURON_KERNELS(sse2)});
    sets.push_back({"avx2", "AVX2, FMA and F16C", cpu.avx2, LAZYNEURON_KERNELS(avx2)});
    sets.push_back({"avx512", "AVX-512 F, BW, DQ and VL", cpu.avx512, LAZYNEURON_KERNELS(avx512)});
    sets.push_back({"avx512vnni", "AVX-512 with VNNI", cpu.avx512vnni, LAZYNEURON_KERNELS(avx512vnni)});
#elif defined(__aarch64__)
    sets.push_back({"neon", "NEON, the aarch64 baseline", true, LAZYNEURON_KERNELS(neon)});
#endif
    return sets;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
    static const std::vector<InstructionSet> sets = list();
    return sets;
}

std::string supported_names() {
    std::string names;
    const auto& sets = instruction_sets();
    for (auto set = sets.rbegin(); set != sets.rend(); ++set) {
        if (!set->supported) continue;
        if (!names.empty()) names += ", ";
        names += set->name;
    }
    return names;
}

const InstructionSet* find_supported(const std::string& name) {
    for (const InstructionSet& set : instruction_sets()) {
        if (set.supported && name == set.name) return &set;
    }
    return nullptr;
}

const InstructionSet& best_instruction_set() {
    const auto& sets = instruction_sets();
    auto best = sets.rbegin();
    while (!best->supported) ++best;  // ends: scalar is the first
    return *best;
}

}  // namespace lazyneuron
