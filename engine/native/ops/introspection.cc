// Plain C functions for tests and diagnostics; the only exports besides RegisterCustomOps.
#include <cstdint>
#include <string>

#include "dispatch/instruction_sets.h"
#include "ops/export.h"

// The instruction sets that this machine supports, the best first: "avx512vnni, avx512, avx2, sse2, scalar".
LAZYNEURON_EXPORT const char* lazyneuron_instruction_sets() {
    static const std::string names = lazyneuron::supported_names();
    return names.c_str();
}

// How many tiles the named set's kernels have worked on in this process; 0 for an unknown name. Counted
// inside the kernels themselves, so it tells what really ran.
LAZYNEURON_EXPORT std::uint64_t lazyneuron_kernel_calls(const char* name) {
    const lazyneuron::InstructionSet* set = lazyneuron::find_supported(name != nullptr ? name : "");
    return set != nullptr ? set->kernels.calls() : 0;
}
