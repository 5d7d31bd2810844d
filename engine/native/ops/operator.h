// What every operator tells ONNX Runtime about itself, but for its kernel.
//
// A Kernel is made of (const Ort&, const Node&), has `OrtStatus* compute(OrtKernelContext*) const noexcept`,
// and tells in static members: kName, kProvider (the execution provider, null for the CPU), kInputs,
// kRequired (how many of them, the first ones, must be there), kOutputs (the first is the float32 result, the
// others are int32 counts) and infer_shapes(const Ort&, const OrtShapeInferContext*).
#pragma once

#include <climits>
#include <memory>
#include <string>

#include "ops/node.h"
#include "ops/ort.h"

namespace lazyneuron {

template <class Kernel>
struct Operator : OrtCustomOp {
    explicit Operator(const OrtApi* runtime) : OrtCustomOp{}, api(runtime) {
        version = LAZYNEURON_ORT_API_VERSION;
        GetName = [](const OrtCustomOp*) -> const char* { return Kernel::kName; };
        GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return Kernel::kProvider; };
        // Any type, so that a wrong one is refused in our words, with what is expected.
        GetInputType = [](const OrtCustomOp*, std::size_t) { return ONNX_UNDEFINED; };
        GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return Kernel::kInputs; };
        GetInputCharacteristic = [](const OrtCustomOp*, std::size_t i) {
            return i < Kernel::kRequired ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
        };
        GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
        GetOutputType = [](const OrtCustomOp*, std::size_t i) { return i == 0 ? ONNX_FLOAT : ONNX_INT32; };
        GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return Kernel::kOutputs; };
        GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
        GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
        GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
        GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
        GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
        CreateKernelV2 = create_kernel;
        KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
            return static_cast<const Kernel*>(kernel)->compute(context);
        };
        KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
        InferOutputShapeFn = infer_shapes;
        GetStartVersion = [](const OrtCustomOp*) { return 1; };
        GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
    }

    const OrtApi* api;

 private:
    static OrtStatus* create_kernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                                    void** kernel) {
        const Ort ort(api);
        std::string prefix = std::string(Kernel::kName) + ": ";
        return as_status(ort, prefix, [&] {
            const Node node(ort, info, Kernel::kName);
            prefix = node.prefix();
            *kernel = std::make_unique<Kernel>(ort, node).release();
        });
    }

    // What the graph does not know stays open; what does not fit is refused later, with the node's name, when
    // the kernel is made.
    static OrtStatus* infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
        const Ort ort(static_cast<const Operator*>(op)->api);
        return as_status(ort, std::string(Kernel::kName) + ": ", [&] { Kernel::infer_shapes(ort, context); });
    }
};

}  // namespace lazyneuron
