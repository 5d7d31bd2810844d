#include <optional>

#include "cuda/launcher.h"
#include "cuda/ops/gpu_node.h"
#include "cuda/ops/operators.h"
#include "ops/operator.h"
#include "ops/runtime_threads.h"
#include "ops/sparse_down_node.h"

namespace lazyneuron::cuda {
namespace {

class SparseDownKernel : public SparseDownNode {
 public:
    static constexpr const char* kProvider = kProviderName;

    SparseDownKernel(const Ort& ort, const Node& node)
        : SparseDownNode(ort, node, Target::kCuda), gpu_(ort, node) {
        const CurrentContext current = gpu_.enter();
        std::vector<AlignedBuffer> copies;
        Data constants{};
        for (std::size_t i = 0; i < kSparseDownInputs; ++i) {
            constants[i] = gpu_.on_host(node.constant(i), copies);
        }
        check_constants(constants);
        const WeightType type = down_type(inputs_);
        launcher_.emplace(gpu_.modules(), options_, type,
                          down_path_for(constants[kDown], inputs_[kDown]->shape, type));
    }

    OrtStatus* compute(OrtKernelContext* context) const noexcept {
        return as_status(ort_, prefix_, [&] { run(context); });
    }

 private:
    void run(OrtKernelContext* context) const {
        const Call call = read_call(context);
        SparseDownCall c{};
        c.rows = call.rows.elements();
        c.neurons = call.neurons();
        c.columns = call.columns();
        c.pre = call.floats(kPre);
        c.up_bias = call.floats(kUpBias);
        c.budget = call.floats(kBudget);
        c.down = {call.data[kDown], call.floats(kDownScale), call.floats(kDownBias)};
        c.y = output<float>(ort_, context, kY, call.y);
        c.active = output<std::int32_t>(ort_, context, kActive, call.rows);
        if (c.rows == 0) return;
        const CurrentContext current = gpu_.enter();
        const CUstream stream = gpu_.stream(context);
        const GpuNode::Scratch scratch(gpu_, context, stream, launcher_->scratch_bytes(c));
        launcher_->run(c, scratch.data(), stream);
    }

    mutable GpuNode gpu_;  // calls take memory from it, which is safe from any thread
    std::optional<SparseDownLauncher> launcher_;
};

}  // namespace

const OrtCustomOp* sparse_down_op(const OrtApi* api) {
    static const Operator<SparseDownKernel> op(api);
    return &op;
}

}  // namespace lazyneuron::cuda
