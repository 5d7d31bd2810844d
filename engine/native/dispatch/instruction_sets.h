// The instruction sets that kernels were compiled for, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace lazyneuron {

struct InstructionSet {
    const char* name;
    const char* description;
    bool supported;  // by this machine
    KernelSet kernels;
};

// Everything that was compiled in, the best last.
const std::vector<InstructionSet>& instruction_sets();

// The names that this machine supports, the best first, as "avx512vnni, avx512, avx2, sse2, scalar".
std::string supported_names();

// The named set, or null if the name is unknown or the machine lacks it.
const InstructionSet* find_supported(const std::string& name);

// The best set of this machine.
const InstructionSet& best_instruction_set();

}  // namespace lazyneuron
