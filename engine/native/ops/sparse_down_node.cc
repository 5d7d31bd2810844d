#include "ops/sparse_down_node.h"

#include "ops/gating.h"
#include "ops/shape_inference.h"

namespace lazyneuron {

SparseDownNode::SparseDownNode(const Ort& ort, const Node& node, Target target)
    : ort_(ort), prefix_(node.prefix()), target_(target), options_(read_gating(node)) {
    for (std::size_t i = 0; i < kSparseDownInputs; ++i) inputs_[i] = node.input(i);
    check_top_k(options_, check_inputs(inputs_, target).neurons);
}

void SparseDownNode::check_constants(const Data& constants) const {
    if (constants[kDown] != nullptr) {
        const Shape& shape = *inputs_[kDown]->shape;
        refuse_nan_in_matrix(input_name(kDown), constants[kDown], down_type(inputs_),
                             static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]));
    }
    for (const SparseDownInput i : {kUpBias, kDownBias, kDownScale}) {
        if (constants[i] == nullptr) continue;
        refuse_nan_in_vector(input_name(i), static_cast<const float*>(constants[i]),
                             inputs_[i]->shape->elements(), i == kDownBias ? "column" : "neuron");
    }
}

SparseDownNode::Call SparseDownNode::read_call(OrtKernelContext* context) const {
    Call call{};
    read_inputs(ort_, context, call.inputs, call.data);
    check_top_k(options_, check_inputs(call.inputs, target_).neurons);
    call.rows = call.inputs[kPre]->shape->leading();
    call.y = call.rows;
    call.y.append(static_cast<std::int64_t>(call.columns()));
    return call;
}

void SparseDownNode::infer_shapes(const Ort& ort, const OrtShapeInferContext* context) {
    const auto pre = SymbolicShape::of_input(ort, context, kPre);
    const auto down = SymbolicShape::of_input(ort, context, kDown);
    if (!pre || pre->rank() == 0) return;
    const SymbolicShape rows = pre->leading();
    rows.set_output(ort, context, kActive, ONNX_INT32);
    if (!down || down->rank() != 2) return;
    rows.with(*down, 1).set_output(ort, context, kY, ONNX_FLOAT);
}

}  // namespace lazyneuron
