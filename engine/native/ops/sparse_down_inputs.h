// SparseDown's inputs and what must hold between them. The same check serves twice: when the session is
// built, with what the graph tells (unknown dimensions pass), and in each call, with everything known.
#pragma once

#include <array>
#include <optional>

#include "ops/shapes.h"
#include "ops/weights.h"

namespace lazyneuron {

enum SparseDownInput : std::size_t {
    kPre,
    kDown,
    kUpBias,
    kDownBias,
    kBudget,
    kDownScale,
    kSparseDownInputs
};

// The names that the design gives them.
const char* input_name(SparseDownInput input);

// Empty: the node does not have the input.
using SparseDownInputs = std::array<std::optional<TensorInfo>, kSparseDownInputs>;

struct SparseDownSizes {
    std::int64_t neurons = -1;  // F; negative: not known yet
    std::int64_t columns = -1;  // D_out
};

// Throws a Refusal that tells what was got and what was expected.
SparseDownSizes check_inputs(const SparseDownInputs& inputs, Target target);

}  // namespace lazyneuron
