#include "ops/sparse_mlp_node.h"

#include <cmath>

#include "ops/gating.h"
#include "ops/shape_inference.h"

namespace lazyneuron {

using namespace mlp_input;

namespace {

Mode parse_mode(const std::string& name) {
    if (name == "certified") return Mode::kCertified;
    if (name == "predictor") return Mode::kPredictor;
    if (name == "gate") return Mode::kGate;
    throw Refusal("attribute 'mode' is '" + name + "', expected one of certified, predictor, gate");
}

SparseMlpOptions read_options(const Node& node) {
    SparseMlpOptions options;
    options.gating = read_gating(node);
    options.mode = parse_mode(node.attribute("mode", "certified"));
    options.score_threshold = node.attribute("score_threshold", 0.0f);
    if (!std::isfinite(options.score_threshold)) {
        throw Refusal("attribute 'score_threshold' is " + std::to_string(options.score_threshold) +
                      ", expected a finite number");
    }
    const Activation activation = options.gating.activation;
    if (options.mode == Mode::kCertified && activation != Activation::kRelu &&
        activation != Activation::kRelu2) {
        throw Refusal("attribute 'activation' is '" + node.attribute("activation", "relu") +
                      "', expected relu or relu2 with mode 'certified'");
    }
    return options;
}

float read_miss_probability(const Node& node) {
    const float p = node.attribute("miss_probability", 0.0f);
    if (p >= 0.0f && p < 1.0f) return p;
    throw Refusal("attribute 'miss_probability' is " + std::to_string(p) +
                  ", expected 0 (the deterministic bound) or a probability below 1");
}

std::size_t dimension(const std::optional<TensorInfo>& info, std::size_t i) {
    return static_cast<std::size_t>((*info->shape)[i]);
}

}  // namespace

SparseMlpNode::SparseMlpNode(const Ort& ort, const Node& node, Target target)
    : ort_(ort),
      prefix_(node.prefix()),
      target_(target),
      options_(read_options(node)),
      miss_probability_(read_miss_probability(node)) {
    for (std::size_t i = 0; i < kCount; ++i) inputs_[i] = node.input(i);
    check_top_k(options_.gating, check_mlp_inputs(inputs_, options_.mode, target).neurons);
}

void SparseMlpNode::check_constants(const Data& constants) const {
    for (const Index i : {kUp, kDown, kGate}) {
        if (constants[i] == nullptr) continue;
        refuse_nan_in_matrix(mlp_input_name(i), constants[i], type_of(inputs_, i), dimension(inputs_[i], 0),
                             dimension(inputs_[i], 1));
    }
    for (const Index i : {kUpBias, kUpScale, kDownScale, kGateScale, kDownBias, kScreenShift, kScreenScale}) {
        if (constants[i] == nullptr) continue;
        const bool by_column = i == kDownBias || i == kScreenShift || i == kScreenScale;
        refuse_nan_in_vector(mlp_input_name(i), static_cast<const float*>(constants[i]),
                             inputs_[i]->shape->elements(), by_column ? "column" : "neuron");
    }
    refuse_bad_screen(constants, kScreenShift);
    refuse_bad_screen(constants, kScreenScale);
}

void SparseMlpNode::refuse_bad_screen(const Data& constants, std::size_t i) const {
    if (constants[i] == nullptr) return;
    const float* values = static_cast<const float*>(constants[i]);
    for (std::size_t d = 0; d < inputs_[i]->shape->elements(); ++d) {
        if (std::isfinite(values[d]) && (i == kScreenShift || values[d] != 0.0f)) continue;
        throw Refusal("input '" + std::string(mlp_input_name(i)) + "' is " + std::to_string(values[d]) +
                      " at column " + std::to_string(d) + ", expected a finite number" +
                      (i == kScreenShift ? "" : " other than 0"));
    }
}

std::size_t SparseMlpNode::missing_for_screen(const Data& constants) const {
    for (const Index i : {kUp, kUpBias, kUpScale, kScreenShift, kScreenScale}) {
        if (inputs_[i] && constants[i] == nullptr) return i;
    }
    return kCount;
}

ScreenSource SparseMlpNode::screen_source(const SparseMlpInputs& inputs, const Data& data) const {
    ScreenSource source{};
    source.up = data[kUp];
    source.type = type_of(inputs, kUp);
    source.neurons = dimension(inputs[kUp], 0);
    source.depth = dimension(inputs[kUp], 1);
    source.up_scale = static_cast<const float*>(data[kUpScale]);
    source.up_bias = static_cast<const float*>(data[kUpBias]);
    source.shift = static_cast<const float*>(data[kScreenShift]);
    source.scale = static_cast<const float*>(data[kScreenScale]);
    source.activation = options_.gating.activation;
    source.threshold = options_.gating.threshold;
    source.miss_probability = miss_probability_;
    return source;
}

SparseMlpNode::Call SparseMlpNode::read_call(OrtKernelContext* context) const {
    Call call{};
    read_inputs(ort_, context, call.inputs, call.data);
    check_top_k(options_.gating, check_mlp_inputs(call.inputs, options_.mode, target_).neurons);
    call.rows = call.inputs[kX]->shape->leading();
    call.y = call.rows;
    call.y.append(static_cast<std::int64_t>(call.size(kDown, 1)));
    return call;
}

void SparseMlpNode::infer_shapes(const Ort& ort, const OrtShapeInferContext* context) {
    const auto x = SymbolicShape::of_input(ort, context, kX);
    const auto down = SymbolicShape::of_input(ort, context, kDown);
    if (!x || x->rank() == 0) return;
    const SymbolicShape rows = x->leading();
    rows.set_output(ort, context, kActive, ONNX_INT32);
    rows.set_output(ort, context, kCandidates, ONNX_INT32);
    if (!down || down->rank() != 2) return;
    rows.with(*down, 1).set_output(ort, context, kY, ONNX_FLOAT);
}

}  // namespace lazyneuron
