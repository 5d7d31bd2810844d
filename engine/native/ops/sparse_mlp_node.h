// What a SparseMLP node is to the kernels of any processor: options, inputs, checks and output shapes.
#pragma once

#include <array>
#include <string>

#include "dispatch/sparse_mlp.h"
#include "ops/node.h"
#include "ops/sparse_mlp_inputs.h"

namespace lazyneuron {

class SparseMlpNode {
 public:
    enum Output : std::size_t { kY, kActive, kCandidates };
    static constexpr const char* kName = "SparseMLP";
    static constexpr std::size_t kInputs = mlp_input::kCount, kRequired = mlp_input::kDown + 1,
                                 kOutputs = kCandidates + 1;

    // y: the leading dimensions of x and the columns of down; the counts: the leading dimensions.
    static void infer_shapes(const Ort& ort, const OrtShapeInferContext* context);

 protected:
    // Each input's data; null where there is none.
    using Data = std::array<const void*, mlp_input::kCount>;

    // Reads and checks all but the constants' values; throws a Refusal.
    SparseMlpNode(const Ort& ort, const Node& node, Target target);

    // Refuses a NaN in the constants, whose data is readable here, and what no screen can be made of.
    void check_constants(const Data& constants) const;

    // The first input that the screen is made of and that is no constant, or kCount.
    std::size_t missing_for_screen(const Data& constants) const;
    // What the screen is made of; the data is readable here.
    ScreenSource screen_source(const SparseMlpInputs& inputs, const Data& data) const;

    // One call's inputs, checked, and its output shapes.
    struct Call {
        SparseMlpInputs inputs;
        Data data;
        Shape rows, y;

        const float* floats(std::size_t input) const { return static_cast<const float*>(data[input]); }
        std::size_t size(std::size_t input, std::size_t i) const {
            return static_cast<std::size_t>((*inputs[input]->shape)[i]);
        }
    };
    Call read_call(OrtKernelContext* context) const;

    WeightType type_of(const SparseMlpInputs& inputs, std::size_t matrix) const {
        return weight_type(mlp_input_name(matrix), inputs[matrix]->type, target_);
    }

    const Ort ort_;
    const std::string prefix_;
    const Target target_;
    const SparseMlpOptions options_;
    const float miss_probability_;
    SparseMlpInputs inputs_;  // as far as the graph tells

 private:
    void refuse_bad_screen(const Data& constants, std::size_t i) const;
};

}  // namespace lazyneuron
