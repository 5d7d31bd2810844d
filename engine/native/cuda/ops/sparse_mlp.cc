#include <optional>

#include "cuda/launcher.h"
#include "cuda/ops/gpu_node.h"
#include "cuda/ops/operators.h"
#include "ops/operator.h"
#include "ops/runtime_threads.h"
#include "ops/sparse_mlp_node.h"

namespace lazyneuron::cuda {
namespace {

using namespace mlp_input;

class SparseMlpKernel : public SparseMlpNode {
 public:
    static constexpr const char* kProvider = kProviderName;

    SparseMlpKernel(const Ort& ort, const Node& node)
        : SparseMlpNode(ort, node, Target::kCuda), gpu_(ort, node) {
        const CurrentContext current = gpu_.enter();
        std::vector<AlignedBuffer> copies;
        Data constants{};
        for (std::size_t i = 0; i < kCount; ++i) constants[i] = gpu_.on_host(node.constant(i), copies);
        check_constants(constants);
        std::optional<WeightType> gate;
        if (inputs_[kGate]) gate = type_of(inputs_, kGate);
        const WeightType down = type_of(inputs_, kDown);
        launcher_.emplace(gpu_.modules(), options_, type_of(inputs_, kUp), gate, down,
                          down_path_for(constants[kDown], inputs_[kDown]->shape, down));
        if (options_.mode == Mode::kCertified) make_screen(constants);
    }

    OrtStatus* compute(OrtKernelContext* context) const noexcept {
        return as_status(ort_, prefix_, [&] { run(context); });
    }

 private:
    void make_screen(const Data& constants) {
        const std::size_t missing = missing_for_screen(constants);
        if (missing != kCount) {
            throw Refusal("input '" + std::string(mlp_input_name(missing)) +
                          "' is not a constant, expected one with mode 'certified' on a GPU");
        }
        const Screen screen(best_instruction_set().kernels, screen_source(inputs_, constants));
        screen_.emplace(*gpu_.modules(), gpu_, screen);
    }

    NeuronWeights neuron_weights(const Call& call, Index matrix, Index scale) const {
        if (call.data[matrix] == nullptr) return {};
        return {call.data[matrix], type_of(call.inputs, matrix), call.floats(scale)};
    }

    void run(OrtKernelContext* context) const {
        const Call call = read_call(context);
        SparseMlpCall c{};
        c.rows = call.rows.elements();
        c.neurons = call.size(kUp, 0);
        c.depth = call.size(kUp, 1);
        c.columns = call.size(kDown, 1);
        c.x = call.floats(kX);
        c.up = neuron_weights(call, kUp, kUpScale);
        c.gate = neuron_weights(call, kGate, kGateScale);
        c.up_bias = call.floats(kUpBias);
        c.scores = call.floats(kScores);
        c.budget = call.floats(kBudget);
        c.down = {call.data[kDown], call.floats(kDownScale), call.floats(kDownBias)};
        c.y = output<float>(ort_, context, kY, call.y);
        c.active = output<std::int32_t>(ort_, context, kActive, call.rows);
        c.candidates = output<std::int32_t>(ort_, context, kCandidates, call.rows);
        if (c.rows == 0) return;
        const CurrentContext current = gpu_.enter();
        const CUstream stream = gpu_.stream(context);
        const DeviceScreen* const screen = screen_ ? &*screen_ : nullptr;
        const GpuNode::Scratch scratch(gpu_, context, stream, launcher_->scratch_bytes(c, screen));
        launcher_->run(c, screen, scratch.data(), stream);
    }

    mutable GpuNode gpu_;  // calls take memory from it, which is safe from any thread
    std::optional<SparseMlpLauncher> launcher_;
    std::optional<DeviceScreen> screen_;  // certified mode
};

}  // namespace

const OrtCustomOp* sparse_mlp_op(const OrtApi* api) {
    static const Operator<SparseMlpKernel> op(api);
    return &op;
}

}  // namespace lazyneuron::cuda
