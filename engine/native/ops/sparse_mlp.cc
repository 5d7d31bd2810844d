#include "ops/sparse_mlp.h"

#include <memory>

#include "dispatch/sparse_mlp.h"
#include "ops/gating.h"
#include "ops/operator.h"
#include "ops/runtime_threads.h"
#include "ops/sparse_mlp_node.h"
#include "ops/weights.h"

namespace lazyneuron {
namespace {

using namespace mlp_input;

class SparseMlpKernel : public SparseMlpNode {
 public:
    static constexpr const char* kProvider = nullptr;

    SparseMlpKernel(const Ort& ort, const Node& node)
        : SparseMlpNode(ort, node, Target::kCpu),
          set_(choose_instruction_set(node)),
          scratch_(ScratchPool::shared()) {
        Data constants{};
        for (std::size_t i = 0; i < kCount; ++i) constants[i] = tensor_data<void>(ort, node.constant(i));
        check_constants(constants);
        if (constants[kDown] != nullptr) {
            layout_ = layout_of(inputs_);
            packed_ = pack(layout_, constants[kDown], finite_);
        }
        if (options_.mode == Mode::kCertified && missing_for_screen(constants) == kCount) {
            screen_ = std::make_unique<Screen>(set_.kernels, screen_source(inputs_, constants));
        }
        up_ = copy_of(constants, kUp);
        gate_ = copy_of(constants, kGate);
    }

    OrtStatus* compute(OrtKernelContext* context) const noexcept {
        return as_status(ort_, prefix_, [&] { run(context); });
    }

 private:
    PanelLayout layout_of(const SparseMlpInputs& inputs) const {
        const Shape& down = *inputs[kDown]->shape;
        return {static_cast<std::size_t>(down[0]), static_cast<std::size_t>(down[1]), type_of(inputs, kDown)};
    }

    AlignedBuffer copy_of(const Data& constants, Index matrix) const {
        if (constants[matrix] == nullptr) return {};
        const std::size_t size = element_size(type_of(inputs_, matrix));
        return copy_weights(constants[matrix], inputs_[matrix]->shape->elements() * size);
    }

    NeuronWeights neuron_weights(const Call& call, Index matrix, Index scale,
                                 const AlignedBuffer& copy) const {
        if (call.data[matrix] == nullptr) return {};
        return {copy.size() != 0 ? copy.data() : call.data[matrix], type_of(call.inputs, matrix),
                call.floats(scale)};
    }

    void run(OrtKernelContext* context) const {
        const Call call = read_call(context);
        SparseMlpTensors t{};
        t.rows = call.rows.elements();
        t.depth = call.size(kUp, 1);
        t.layout = packed_.size() != 0 ? layout_ : layout_of(call.inputs);
        t.x = call.floats(kX);
        t.up = neuron_weights(call, kUp, kUpScale, up_);
        t.gate = neuron_weights(call, kGate, kGateScale, gate_);
        t.up_bias = call.floats(kUpBias);
        t.scores = call.floats(kScores);
        t.down_scale = call.floats(kDownScale);
        t.down_bias = call.floats(kDownBias);
        t.budget = call.floats(kBudget);
        t.y = output<float>(ort_, context, kY, call.y);
        t.active = output<std::int32_t>(ort_, context, kActive, call.rows);
        t.candidates = output<std::int32_t>(ort_, context, kCandidates, call.rows);
        if (t.rows == 0) return;
        // A screen of weights that are no constants is made in each call, which costs a pass over all of
        // them.
        std::unique_ptr<Screen> screen;
        if (options_.mode == Mode::kCertified && !screen_) {
            screen = std::make_unique<Screen>(set_.kernels, screen_source(call.inputs, call.data));
        }
        t.screen = screen_ ? screen_.get() : screen.get();
        run(t, call.data[kDown], RuntimeThreads(ort_, context));
    }

    // So is the down projection's packed form.
    void run(SparseMlpTensors& t, const void* down, const ParallelFor& parallel) const {
        const bool packed = packed_.size() != 0;
        const std::size_t work = sparse_mlp_scratch_bytes(options_, t);  // a multiple of kScratchAlignment
        const ScratchPool::Lease scratch(*scratch_, packed ? work : work + t.layout.bytes());
        t.finite = packed ? finite_ : pack_to(scratch.data() + work, t.layout, down, parallel);
        t.packed = packed ? packed_.data() : scratch.data() + work;
        sparse_mlp(set_.kernels, options_, t, scratch.data(), parallel);
    }

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
