#include "ops/sparse_down.h"

#include <array>
#include <memory>
#include <string>

#include "dispatch/sparse_down.h"
#include "ops/gating.h"
#include "ops/node.h"
#include "ops/operator.h"
#include "ops/runtime_threads.h"
#include "ops/shape_inference.h"
#include "ops/sparse_down_inputs.h"
#include "ops/weights.h"

namespace lazyneuron {
namespace {

enum Output : std::size_t { kY, kActive };

class SparseDownKernel {
 public:
    static constexpr const char* kName = "SparseDown";
    static constexpr std::size_t kInputs = kSparseDownInputs, kRequired = kDown + 1, kOutputs = kActive + 1;

    SparseDownKernel(const Ort& ort, const Node& node)
        : ort_(ort),
          prefix_(node.prefix()),
          options_(read_gating(node)),
          set_(choose_instruction_set(node)),
          scratch_(ScratchPool::shared()) {
        SparseDownInputs inputs;
        for (std::size_t i = 0; i < kSparseDownInputs; ++i) inputs[i] = node.input(i);
        const SparseDownSizes sizes = check_inputs(inputs);
        check_top_k(options_, sizes.neurons);
        check_constants(node, inputs);
        if (const OrtValue* down = node.constant(kDown)) {
            layout_ = layout_of(*inputs[kDown]);
            packed_ = pack(layout_, tensor_data<char>(ort_, down), finite_);
        }
    }

    OrtStatus* compute(OrtKernelContext* context) const noexcept {
        return as_status(ort_, prefix_, [&] { run(context); });
    }

    // y: the leading dimensions of pre and the columns of down; the counts: the leading dimensions.
    static void infer_shapes(const Ort& ort, const OrtShapeInferContext* context) {
        const auto pre = SymbolicShape::of_input(ort, context, kPre);
        const auto down = SymbolicShape::of_input(ort, context, kDown);
        if (!pre || pre->rank() == 0) return;
        const SymbolicShape rows = pre->leading();
        rows.set_output(ort, context, kActive, ONNX_INT32);
        if (!down || down->rank() != 2) return;
        rows.with(*down, 1).set_output(ort, context, kY, ONNX_FLOAT);
    }

 private:
    static PanelLayout layout_of(const TensorInfo& down) {
        return {static_cast<std::size_t>((*down.shape)[0]), static_cast<std::size_t>((*down.shape)[1]),
                weight_type(input_name(kDown), down.type)};
    }

    void check_constants(const Node& node, const SparseDownInputs& inputs) const {
        if (const OrtValue* down = node.constant(kDown)) {
            const PanelLayout layout = layout_of(*inputs[kDown]);
            refuse_nan_in_matrix(input_name(kDown), tensor_data<char>(ort_, down), layout.type(),
                                 layout.neurons(), layout.columns());
        }
        for (const SparseDownInput i : {kUpBias, kDownBias, kDownScale}) {
            const OrtValue* vector = node.constant(i);
            if (vector == nullptr) continue;
            refuse_nan_in_vector(input_name(i), tensor_data<float>(ort_, vector),
                                 inputs[i]->shape->elements(), i == kDownBias ? "column" : "neuron");
        }
    }

    void run(OrtKernelContext* context) const {
        std::array<const OrtValue*, kSparseDownInputs> values{};
        SparseDownInputs inputs;
        std::size_t count = 0;
        ort_.check(ort_.KernelContext_GetInputCount(context, &count));
        for (std::size_t i = 0; i < kSparseDownInputs && i < count; ++i) {
            ort_.check(ort_.KernelContext_GetInput(context, i, &values[i]));
            if (values[i] != nullptr) inputs[i] = read_tensor_info(ort_, values[i]);
        }
        check_top_k(options_, check_inputs(inputs).neurons);
        const Shape rows = inputs[kPre]->shape->leading();
        SparseDownTensors t{};
        t.rows = rows.elements();
        t.layout = packed_.size() != 0 ? layout_ : layout_of(*inputs[kDown]);
        t.pre = tensor_data<float>(ort_, values[kPre]);
        t.up_bias = tensor_data<float>(ort_, values[kUpBias]);
        t.down_bias = tensor_data<float>(ort_, values[kDownBias]);
        t.budget = tensor_data<float>(ort_, values[kBudget]);
        t.scale = tensor_data<float>(ort_, values[kDownScale]);
        Shape y = rows;
        y.append(static_cast<std::int64_t>(t.layout.columns()));
        t.y = output<float>(ort_, context, kY, y);
        t.active = output<std::int32_t>(ort_, context, kActive, rows);
        if (t.rows != 0) run(t, values[kDown], RuntimeThreads(ort_, context));
    }

    // Weights that are no constant are packed in each call, which costs a pass over all of them.
    void run(SparseDownTensors& t, const OrtValue* down, const ParallelFor& parallel) const {
        const bool packed = packed_.size() != 0;
        const std::size_t lists = sparse_down_scratch_bytes(t.rows, t.layout.neurons());
        const std::size_t offset = (lists + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
        const ScratchPool::Lease scratch(*scratch_, packed ? lists : offset + t.layout.bytes());
        t.finite = packed
                       ? finite_
                       : pack_to(scratch.data() + offset, t.layout, tensor_data<char>(ort_, down), parallel);
        t.packed = packed ? packed_.data() : scratch.data() + offset;
        sparse_down(set_.kernels, options_, t, scratch.data(), parallel);
    }

    const Ort ort_;
    const std::string prefix_;
    const SparseDownOptions options_;
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
