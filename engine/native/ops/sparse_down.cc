#include "ops/sparse_down.h"

#include <memory>

#include "dispatch/sparse_down.h"
#include "ops/gating.h"
#include "ops/operator.h"
#include "ops/runtime_threads.h"
#include "ops/sparse_down_node.h"
#include "ops/weights.h"

namespace lazyneuron {
namespace {

class SparseDownKernel : public SparseDownNode {
 public:
    static constexpr const char* kProvider = nullptr;

    SparseDownKernel(const Ort& ort, const Node& node)
        : SparseDownNode(ort, node, Target::kCpu),
          set_(choose_instruction_set(node)),
          scratch_(ScratchPool::shared()) {
        Data constants{};
        for (std::size_t i = 0; i < kSparseDownInputs; ++i) {
            constants[i] = tensor_data<void>(ort, node.constant(i));
        }
        check_constants(constants);
        if (constants[kDown] != nullptr) {
            layout_ = layout_of(inputs_);
            packed_ = pack(layout_, constants[kDown], finite_);
        }
    }

    OrtStatus* compute(OrtKernelContext* context) const noexcept {
        return as_status(ort_, prefix_, [&] { run(context); });
    }

 private:
    PanelLayout layout_of(const SparseDownInputs& inputs) const {
        const Shape& down = *inputs[kDown]->shape;
        return {static_cast<std::size_t>(down[0]), static_cast<std::size_t>(down[1]), down_type(inputs)};
    }

    void run(OrtKernelContext* context) const {
        const Call call = read_call(context);
        SparseDownTensors t{};
        t.rows = call.rows.elements();
        t.layout = packed_.size() != 0 ? layout_ : layout_of(call.inputs);
        t.pre = call.floats(kPre);
        t.up_bias = call.floats(kUpBias);
        t.down_bias = call.floats(kDownBias);
        t.budget = call.floats(kBudget);
        t.scale = call.floats(kDownScale);
        t.y = output<float>(ort_, context, kY, call.y);
        t.active = output<std::int32_t>(ort_, context, kActive, call.rows);
        if (t.rows != 0) run(t, call.data[kDown], RuntimeThreads(ort_, context));
    }

    // Weights that are no constant are packed in each call, which costs a pass over all of them.
    void run(SparseDownTensors& t, const void* down, const ParallelFor& parallel) const {
        const bool packed = packed_.size() != 0;
        const std::size_t lists = sparse_down_scratch_bytes(t.rows, t.layout.neurons());
        const std::size_t offset = (lists + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
        const ScratchPool::Lease scratch(*scratch_, packed ? lists : offset + t.layout.bytes());
        t.finite = packed ? finite_ : pack_to(scratch.data() + offset, t.layout, down, parallel);
        t.packed = packed ? packed_.data() : scratch.data() + offset;
        sparse_down(set_.kernels, options_, t, scratch.data(), parallel);
    }

    const InstructionSet& set_;
    const std::shared_ptr<ScratchPool> scratch_;
    PanelLayout layout_;
    AlignedBuffer packed_;  // empty: `down` is not a constant
    bool finite_ = false;   // all that is packed
};

}  // namespace

const OrtCustomOp* sparse_down_op(const OrtApi* api) {
    static const Operator<SparseDownKernel> op(api);
    return &op;
}

}  // namespace lazyneuron
