// The attributes that every gated operator has, and the kernels it runs on.
#pragma once

#include "dispatch/instruction_sets.h"
#include "dispatch/sparse_down.h"
#include "ops/node.h"

namespace lazyneuron {

// Reads and checks `activation`, `top_k` and `threshold`; throws a Refusal.
SparseDownOptions read_gating(const Node& node);

// Refuses a top_k above the number of neurons.
void check_top_k(const SparseDownOptions& options, std::int64_t neurons);

// The set that LAZYNEURON_ISA names, or this machine's best. Throws a Refusal for a name that is unknown or
// not supported; logs the choice.
const InstructionSet& choose_instruction_set(const Node& node);

}  // namespace lazyneuron
