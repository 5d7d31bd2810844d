// SparseMLP's inputs and what must hold between them. The same check serves twice: when the session is built,
// with what the graph tells (unknown dimensions pass), and in each call, with everything known.
#pragma once

#include <array>
#include <optional>

#include "dispatch/sparse_mlp.h"
#include "ops/shapes.h"
#include "ops/weights.h"

namespace lazyneuron {

namespace mlp_input {
enum Index : std::size_t {
    kX,
    kUp,
    kDown,
    kUpBias,
    kDownBias,
    kBudget,
    kScores,
    kGate,
    kUpScale,
    kDownScale,
    kGateScale,
    kScreenShift,
    kScreenScale,
    kCount
};
}  // namespace mlp_input

// The names that the design gives them.
const char* mlp_input_name(std::size_t input);

// Empty: the node does not have the input.
using SparseMlpInputs = std::array<std::optional<TensorInfo>, mlp_input::kCount>;

struct SparseMlpSizes {
    std::int64_t depth = -1;    // D; negative: not known yet
    std::int64_t neurons = -1;  // F
    std::int64_t columns = -1;  // D_out
};

// Throws a Refusal that tells what was got and what was expected.
SparseMlpSizes check_mlp_inputs(const SparseMlpInputs& inputs, Mode mode, Target target);

}  // namespace lazyneuron
