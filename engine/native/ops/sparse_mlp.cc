#include "ops/sparse_mlp.h"

#include <array>
#include <cmath>
#include <memory>
#include <string>

#include "dispatch/sparse_mlp.h"
#include "ops/gating.h"
#include "ops/node.h"
#include "ops/operator.h"
#include "ops/runtime_threads.h"
#include "ops/shape_inference.h"
#include "ops/sparse_mlp_inputs.h"
#include "ops/weights.h"

namespace lazyneuron {
namespace {

using namespace mlp_input;

enum Output : std::size_t { kY, kActive, kCandidates };

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

PanelLayout layout_of(const TensorInfo& down) {
    return {dimension(down, 0), dimension(down, 1), weight_type(mlp_input_name(kDown), down.type)};
}

class SparseMlpKernel {
 public:
    static constexpr const char* kName = "SparseMLP";
    static constexpr std::size_t kInputs = kCount, kRequired = kDown + 1, kOutputs = kCandidates + 1;

    SparseMlpKernel(const Ort& ort, const Node& node)
        : ort_(ort),
          prefix_(node.prefix()),
          options_(read_options(node)),
          miss_probability_(read_miss_probability(node)),
          set_(choose_instruction_set(node)),
          scratch_(ScratchPool::shared()) {
        SparseMlpInputs inputs;
        Values constants{};
        for (std::size_t i = 0; i < kCount; ++i) {
            inputs[i] = node.input(i);
            constants[i] = node.constant(i);
        }
        check_top_k(options_.gating, check_mlp_inputs(inputs, options_.mode).neurons);
        check_constants(inputs, constants);
        if (constants[kDown] != nullptr) {
            layout_ = layout_of(*inputs[kDown]);
            packed_ = pack(layout_, tensor_data<char>(ort_, constants[kDown]), finite_);
        }
        if (options_.mode == Mode::kCertified && screen_is_constant(inputs, constants)) {
            screen_ = std::make_unique<Screen>(set_.kernels, screen_source(inputs, constants));
        }
        up_ = copy_of(inputs, constants, kUp);
        gate_ = copy_of(inputs, constants, kGate);
    }

    OrtStatus* compute(OrtKernelContext* context) const noexcept {
        return as_status(ort_, prefix_, [&] { run(context); });
    }

    // y: the leading dimensions of x and the columns of down; the counts: the leading dimensions.
    static void infer_shapes(const Ort& ort, const OrtShapeInferContext* context) {
        const auto x = SymbolicShape::of_input(ort, context, kX);
        const auto down = SymbolicShape::of_input(ort, context, kDown);
        if (!x || x->rank() == 0) return;
        const SymbolicShape rows = x->leading();
        rows.set_output(ort, context, kActive, ONNX_INT32);
        rows.set_output(ort, context, kCandidates, ONNX_INT32);
        if (!down || down->rank() != 2) return;
        rows.with(*down, 1).set_output(ort, context, kY, ONNX_FLOAT);
    }

 private:
    using Values = std::array<const OrtValue*, kCount>;

    void check_constants(const SparseMlpInputs& inputs, const Values& constants) const {
        for (const Index i : {kUp, kDown, kGate}) {
            if (constants[i] == nullptr) continue;
            refuse_nan_in_matrix(mlp_input_name(i), tensor_data<char>(ort_, constants[i]),
                                 weight_type(mlp_input_name(i), inputs[i]->type), dimension(inputs[i], 0),
                                 dimension(inputs[i], 1));
        }
        for (const Index i : {kUpBias, kUpScale, kDownScale, kGateScale}) {
            check_constant_vector(inputs, constants, i, "neuron");
        }
        for (const Index i : {kDownBias, kScreenShift, kScreenScale}) {
            check_constant_vector(inputs, constants, i, "column");
        }
        refuse_bad_screen(inputs, constants, kScreenShift);
        refuse_bad_screen(inputs, constants, kScreenScale);
    }

    void check_constant_vector(const SparseMlpInputs& inputs, const Values& constants, Index i,
                               const char* what) const {
        if (constants[i] == nullptr) return;
        refuse_nan_in_vector(mlp_input_name(i), tensor_data<float>(ort_, constants[i]),
                             inputs[i]->shape->elements(), what);
    }

    void refuse_bad_screen(const SparseMlpInputs& inputs, const Values& constants, Index i) const {
        if (constants[i] == nullptr) return;
        const float* values = tensor_data<float>(ort_, constants[i]);
        for (std::size_t d = 0; d < inputs[i]->shape->elements(); ++d) {
            if (std::isfinite(values[d]) && (i == kScreenShift || values[d] != 0.0f)) continue;
            throw Refusal("input '" + std::string(mlp_input_name(i)) + "' is " + std::to_string(values[d]) +
                          " at column " + std::to_string(d) + ", expected a finite number" +
                          (i == kScreenShift ? "" : " other than 0"));
        }
    }

    static bool screen_is_constant(const SparseMlpInputs& inputs, const Values& constants) {
        for (const Index i : {kUp, kUpBias, kUpScale, kScreenShift, kScreenScale}) {
            if (inputs[i] && constants[i] == nullptr) return false;
        }
        return true;
    }

    ScreenSource screen_source(const SparseMlpInputs& inputs, const Values& values) const {
        ScreenSource source{};
        source.up = tensor_data<char>(ort_, values[kUp]);
        source.type = weight_type(mlp_input_name(kUp), inputs[kUp]->type);
        source.neurons = dimension(inputs[kUp], 0);
        source.depth = dimension(inputs[kUp], 1);
        source.up_scale = tensor_data<float>(ort_, values[kUpScale]);
        source.up_bias = tensor_data<float>(ort_, values[kUpBias]);
        source.shift = tensor_data<float>(ort_, values[kScreenShift]);
        source.scale = tensor_data<float>(ort_, values[kScreenScale]);
        source.activation = options_.gating.activation;
        source.threshold = options_.gating.threshold;
        source.miss_probability = miss_probability_;
        return source;
    }

    AlignedBuffer copy_of(const SparseMlpInputs& inputs, const Values& constants, Index matrix) const {
        if (constants[matrix] == nullptr) return {};
        const std::size_t size = element_size(weight_type(mlp_input_name(matrix), inputs[matrix]->type));
        return copy_weights(tensor_data<char>(ort_, constants[matrix]),
                            inputs[matrix]->shape->elements() * size);
    }

    NeuronWeights neuron_weights(const SparseMlpInputs& inputs, const Values& values, Index matrix,
                                 Index scale, const AlignedBuffer& copy) const {
        if (values[matrix] == nullptr) return {};
        return {copy.size() != 0 ? copy.data() : tensor_data<char>(ort_, values[matrix]),
                weight_type(mlp_input_name(matrix), inputs[matrix]->type),
                tensor_data<float>(ort_, values[scale])};
    }

    void run(OrtKernelContext* context) const {
        Values values{};
        SparseMlpInputs inputs;
        std::size_t count = 0;
        ort_.check(ort_.KernelContext_GetInputCount(context, &count));
        for (std::size_t i = 0; i < kCount && i < count; ++i) {
            ort_.check(ort_.KernelContext_GetInput(context, i, &values[i]));
            if (values[i] != nullptr) inputs[i] = read_tensor_info(ort_, values[i]);
        }
        check_top_k(options_.gating, check_mlp_inputs(inputs, options_.mode).neurons);
        const Shape rows = inputs[kX]->shape->leading();
        SparseMlpTensors t{};
        t.rows = rows.elements();
        t.depth = dimension(inputs[kUp], 1);
        t.layout = packed_.size() != 0 ? layout_ : layout_of(*inputs[kDown]);
        t.x = tensor_data<float>(ort_, values[kX]);
        t.up = neuron_weights(inputs, values, kUp, kUpScale, up_);
        t.gate = neuron_weights(inputs, values, kGate, kGateScale, gate_);
        t.up_bias = tensor_data<float>(ort_, values[kUpBias]);
        t.scores = tensor_data<float>(ort_, values[kScores]);
        t.down_scale = tensor_data<float>(ort_, values[kDownScale]);
        t.down_bias = tensor_data<float>(ort_, values[kDownBias]);
        t.budget = tensor_data<float>(ort_, values[kBudget]);
        Shape y = rows;
        y.append(static_cast<std::int64_t>(t.layout.columns()));
        t.y = output<float>(ort_, context, kY, y);
        t.active = output<std::int32_t>(ort_, context, kActive, rows);
        t.candidates = output<std::int32_t>(ort_, context, kCandidates, rows);
        if (t.rows == 0) return;
        // A screen of weights that are no constants is made in each call, which costs a pass over all of
        // them.
        std::unique_ptr<Screen> screen;
        if (options_.mode == Mode::kCertified && !screen_) {
            screen = std::make_unique<Screen>(set_.kernels, screen_source(inputs, values));
        }
        t.screen = screen_ ? screen_.get() : screen.get();
        run(t, values[kDown], RuntimeThreads(ort_, context));
    }

    // So is the down projection's packed form.
    void run(SparseMlpTensors& t, const OrtValue* down, const ParallelFor& parallel) const {
        const bool packed = packed_.size() != 0;
        const std::size_t work = sparse_mlp_scratch_bytes(options_, t);  // a multiple of kScratchAlignment
        const ScratchPool::Lease scratch(*scratch_, packed ? work : work + t.layout.bytes());
        t.finite = packed ? finite_
                          : pack_to(scratch.data() + work, t.layout, tensor_data<char>(ort_, down), parallel);
        t.packed = packed ? packed_.data() : scratch.data() + work;
        sparse_mlp(set_.kernels, options_, t, scratch.data(), parallel);
    }

    const Ort ort_;
    const std::string prefix_;
    const SparseMlpOptions options_;
    const float miss_probability_;
    const InstructionSet& set_;
    const std::shared_ptr<ScratchPool> scratch_;
    PanelLayout layout_;
    AlignedBuffer up_, gate_, packed_;  // empty: the matrix is not a constant
    bool finite_ = false;               // all that is packed
    std::unique_ptr<Screen> screen_;    // null: not certified, or the weights are no constants
};

}  // namespace

const OrtCustomOp* sparse_mlp_op(const OrtApi* api) {
    static const Operator<SparseMlpKernel> op(api);
    return &op;
}

}  // namespace lazyneuron
