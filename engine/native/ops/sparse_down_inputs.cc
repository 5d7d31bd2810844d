#include "ops/sparse_down_inputs.h"

namespace lazyneuron {
namespace {

[[noreturn]] void refuse_shape(SparseDownInput input, const Shape& got, const std::string& expected) {
    throw Refusal("input '" + std::string(input_name(input)) + "' has shape " + to_text(got) + ", expected " +
                  expected);
}

std::string sized(const char* symbol, std::int64_t size) {
    return size < 0 ? symbol : std::string(symbol) + " = " + std::to_string(size);
}

void check_types(const SparseDownInputs& inputs, Target target) {
    for (const SparseDownInput required : {kPre, kDown}) {
        if (!inputs[required]) throw Refusal("input '" + std::string(input_name(required)) + "' is missing");
    }
    for (std::size_t i = 0; i < kSparseDownInputs; ++i) {
        const auto input = static_cast<SparseDownInput>(i);
        if (!inputs[i] || inputs[i]->type == ONNX_UNDEFINED) continue;
        if (input == kDown) {
            weight_type(input_name(input), inputs[i]->type, target);
        } else if (inputs[i]->type != ONNX_FLOAT) {
            throw Refusal("input '" + std::string(input_name(input)) + "' is " + to_text(inputs[i]->type) +
                          ", expected float32");
        }
    }
    if (inputs[kDown]->type == ONNX_INT8 && !inputs[kDownScale]) {
        throw Refusal(
            "input 'down' is int8 and there is no input 'down_scale', expected one float32 for each neuron");
    }
}

SparseDownSizes sizes_of_matrices(const SparseDownInputs& inputs) {
    SparseDownSizes sizes;
    if (const auto& down = inputs[kDown]->shape) {
        if (down->rank != 2) refuse_shape(kDown, *down, "rank 2: [F, D_out]");
        sizes = {(*down)[0], (*down)[1]};
        if (sizes.neurons == 0 || sizes.columns == 0) refuse_shape(kDown, *down, "F and D_out of at least 1");
    }
    if (const auto& pre = inputs[kPre]->shape) {
        if (pre->rank == 0) refuse_shape(kPre, *pre, "rank 1 or more: [..., F]");
        if (conflict(pre->last(), sizes.neurons)) {
            refuse_shape(kPre, *pre,
                         "[..., F] with F = " + std::to_string(sizes.neurons) + " as 'down' has it");
        }
        if (pre->last() == 0) refuse_shape(kPre, *pre, "F of at least 1");
        sizes.neurons = known(sizes.neurons, pre->last());
    }
    return sizes;
}

// A vector's own size fills in one that is not known yet, so that two vectors cannot disagree either.
void check_vector(const SparseDownInputs& inputs, SparseDownInput input, const char* symbol,
                  std::int64_t& size) {
    if (!inputs[input] || !inputs[input]->shape) return;
    const Shape& shape = *inputs[input]->shape;
    if (shape.rank != 1 || conflict(shape[0], size))
        refuse_shape(input, shape, "[" + sized(symbol, size) + "]");
    size = known(size, shape[0]);
}

void check_budget(const SparseDownInputs& inputs) {
    if (!inputs[kBudget] || !inputs[kBudget]->shape || !inputs[kPre]->shape) return;
    const Shape& budget = *inputs[kBudget]->shape;
    const Shape rows = inputs[kPre]->shape->leading();
    if (conflict(budget, rows)) {
        refuse_shape(kBudget, budget, to_text(rows) + ", the shape of 'pre' without its last dimension");
    }
}

}  // namespace

const char* input_name(SparseDownInput input) {
    static const char* const names[] = {"pre", "down", "up_bias", "down_bias", "budget", "down_scale"};
    return names[input];
}

SparseDownSizes check_inputs(const SparseDownInputs& inputs, Target target) {
    check_types(inputs, target);
    SparseDownSizes sizes = sizes_of_matrices(inputs);
    check_vector(inputs, kUpBias, "F", sizes.neurons);
    check_vector(inputs, kDownScale, "F", sizes.neurons);
    check_vector(inputs, kDownBias, "D_out", sizes.columns);
    check_budget(inputs);
    return sizes;
}

}  // namespace lazyneuron
