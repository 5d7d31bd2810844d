#include "ops/sparse_mlp_inputs.h"

namespace lazyneuron {
namespace {

using namespace mlp_input;

// The screen's 32-bit sums hold this many products of codes, 255 * 127 each.
constexpr std::int64_t kLargestScreenDepth = 65536;

std::string quoted(std::size_t input) { return "input '" + std::string(mlp_input_name(input)) + "'"; }

[[noreturn]] void refuse_shape(std::size_t input, const Shape& got, const std::string& expected) {
    throw Refusal(quoted(input) + " has shape " + to_text(got) + ", expected " + expected);
}

std::string sized(const char* symbol, std::int64_t size) {
    return size < 0 ? symbol : std::string(symbol) + " = " + std::to_string(size);
}

void check_presence(const SparseMlpInputs& inputs, Mode mode) {
    for (const Index required : {kX, kUp, kDown}) {
        if (!inputs[required]) throw Refusal(quoted(required) + " is missing");
    }
    if (mode == Mode::kCertified) {
        for (const Index other : {kScores, kGate}) {
            if (inputs[other]) {
                throw Refusal(quoted(other) + " is given with mode 'certified', which has no use for it; " +
                              "expected mode 'predictor' or 'gate'");
            }
        }
        return;
    }
    if (!inputs[kScores]) {
        throw Refusal(quoted(kScores) + " is missing, expected [..., F] with mode 'predictor' or 'gate'");
    }
    if (mode == Mode::kGate && inputs[kGate]) {
        throw Refusal(quoted(kGate) + " is given with mode 'gate', where 'scores' is the gate projection; " +
                      "expected mode 'predictor'");
    }
}

void check_types(const SparseMlpInputs& inputs, Target target) {
    for (std::size_t i = 0; i < kCount; ++i) {
        if (!inputs[i] || inputs[i]->type == ONNX_UNDEFINED) continue;
        if (i == kUp || i == kDown || i == kGate) {
            weight_type(mlp_input_name(i), inputs[i]->type, target);
        } else if (inputs[i]->type != ONNX_FLOAT) {
            throw Refusal(quoted(i) + " is " + to_text(inputs[i]->type) + ", expected float32");
        }
    }
    constexpr Index kScaled[][2] = {{kUp, kUpScale}, {kDown, kDownScale}, {kGate, kGateScale}};
    for (const auto& [matrix, scale] : kScaled) {
        if (inputs[matrix] && inputs[matrix]->type == ONNX_INT8 && !inputs[scale]) {
            throw Refusal(quoted(matrix) + " is int8 and there is no " + quoted(scale) +
                          ", expected one float32 for each neuron");
        }
    }
}

// A dimension fills in a size that is not known yet, so that no two inputs can disagree.
void check_matrix(const SparseMlpInputs& inputs, Index input, const char* column_symbol,
                  std::int64_t& neurons, std::int64_t& columns) {
    if (!inputs[input] || !inputs[input]->shape) return;
    const Shape& shape = *inputs[input]->shape;
    if (shape.rank != 2 || conflict(shape[0], neurons) || conflict(shape[1], columns)) {
        refuse_shape(input, shape, "[" + sized("F", neurons) + ", " + sized(column_symbol, columns) + "]");
    }
    if (shape[0] == 0 || shape[1] == 0) {
        refuse_shape(input, shape, std::string("F and ") + column_symbol + " of at least 1");
    }
    neurons = known(neurons, shape[0]);
    columns = known(columns, shape[1]);
}

void check_vector(const SparseMlpInputs& inputs, Index input, const char* symbol, std::int64_t& size) {
    if (!inputs[input] || !inputs[input]->shape) return;
    const Shape& shape = *inputs[input]->shape;
    if (shape.rank != 1 || conflict(shape[0], size))
        refuse_shape(input, shape, "[" + sized(symbol, size) + "]");
    size = known(size, shape[0]);
}

// Inputs with something for each row.
void check_rows(const SparseMlpInputs& inputs, SparseMlpSizes& sizes) {
    if (!inputs[kX]->shape) return;
    const Shape& x = *inputs[kX]->shape;
    if (x.rank == 0) refuse_shape(kX, x, "rank 1 or more: [..., D]");
    if (conflict(x.last(), sizes.depth)) {
        refuse_shape(kX, x, "[..., D] with D = " + std::to_string(sizes.depth) + " as 'up' has it");
    }
    sizes.depth = known(sizes.depth, x.last());
    const Shape rows = x.leading();
    if (inputs[kBudget] && inputs[kBudget]->shape && conflict(*inputs[kBudget]->shape, rows)) {
        refuse_shape(kBudget, *inputs[kBudget]->shape,
                     to_text(rows) + ", the shape of 'x' without its last dimension");
    }
    if (!inputs[kScores] || !inputs[kScores]->shape) return;
    Shape expected = rows;
    expected.append(sizes.neurons);
    if (conflict(*inputs[kScores]->shape, expected)) {
        refuse_shape(kScores, *inputs[kScores]->shape, to_text(expected) + ", the rows of 'x' and F of 'up'");
    }
}

}  // namespace

const char* mlp_input_name(std::size_t input) {
    static const char* const names[] = {"x",          "up",           "down",        "up_bias",  "down_bias",
                                        "budget",     "scores",       "gate",        "up_scale", "down_scale",
                                        "gate_scale", "screen_shift", "screen_scale"};
    return names[input];
}

SparseMlpSizes check_mlp_inputs(const SparseMlpInputs& inputs, Mode mode, Target target) {
    check_presence(inputs, mode);
    check_types(inputs, target);
    SparseMlpSizes sizes;
    check_matrix(inputs, kUp, "D", sizes.neurons, sizes.depth);
    check_matrix(inputs, kDown, "D_out", sizes.neurons, sizes.columns);
    check_matrix(inputs, kGate, "D", sizes.neurons, sizes.depth);
    for (const Index i : {kUpBias, kUpScale, kDownScale, kGateScale})
        check_vector(inputs, i, "F", sizes.neurons);
    check_vector(inputs, kDownBias, "D_out", sizes.columns);
    for (const Index i : {kScreenShift, kScreenScale}) check_vector(inputs, i, "D", sizes.depth);
    check_rows(inputs, sizes);
    if (mode == Mode::kCertified && sizes.depth > kLargestScreenDepth) {
        throw Refusal("D is " + std::to_string(sizes.depth) + ", expected at most " +
                      std::to_string(kLargestScreenDepth) + " with mode 'certified'");
    }
    return sizes;
}

}  // namespace lazyneuron
