// What a SparseDown node is to the kernels of any processor: options, inputs, checks and output shapes.
#pragma once

#include <array>
#include <string>

#include "dispatch/sparse_down.h"
#include "ops/node.h"
#include "ops/sparse_down_inputs.h"

namespace lazyneuron {

class SparseDownNode {
 public:
    enum Output : std::size_t { kY, kActive };
    static constexpr const char* kName = "SparseDown";
    static constexpr std::size_t kInputs = kSparseDownInputs, kRequired = kDown + 1, kOutputs = kActive + 1;

    // y: the leading dimensions of pre and the columns of down; the counts: the leading dimensions.
    static void infer_shapes(const Ort& ort, const OrtShapeInferContext* context);

 protected:
    // Each input's data; null where there is none.
    using Data = std::array<const void*, kSparseDownInputs>;

    // Reads and checks all but the constants' values; throws a Refusal.
    SparseDownNode(const Ort& ort, const Node& node, Target target);

    // Refuses a NaN in the constants, whose data is readable here.
    void check_constants(const Data& constants) const;

    // One call's inputs, checked, and its output shapes.
    struct Call {
        SparseDownInputs inputs;
        Data data;
        Shape rows, y;

        const float* floats(SparseDownInput input) const { return static_cast<const float*>(data[input]); }
        std::size_t neurons() const { return static_cast<std::size_t>((*inputs[kDown]->shape)[0]); }
        std::size_t columns() const { return static_cast<std::size_t>((*inputs[kDown]->shape)[1]); }
    };
    Call read_call(OrtKernelContext* context) const;

    WeightType down_type(const SparseDownInputs& inputs) const {
        return weight_type(input_name(kDown), inputs[kDown]->type, target_);
    }

    const Ort ort_;
    const std::string prefix_;
    const Target target_;
    const SparseDownOptions options_;
    SparseDownInputs inputs_;  // as far as the graph tells
};

}  // namespace lazyneuron
