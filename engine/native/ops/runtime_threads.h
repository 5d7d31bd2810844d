// The runtime's own threads, and its output tensors, as every operator's call needs them.
#pragma once

#include "dispatch/parallel.h"
#include "ops/ort.h"
#include "ops/shapes.h"

namespace lazyneuron {

class RuntimeThreads final : public ParallelFor {
 public:
    RuntimeThreads(const Ort& ort, const OrtKernelContext* context) : ort_(ort), context_(context) {}
    void run(std::size_t total, Work work, void* context) const override {
        // As many batches as pieces of work: threads then take them as they come, so that rows of very
        // different density do not leave a thread idle.
        ort_.check(ort_.KernelContext_ParallelFor(context_, work, total, total, context));
    }

 private:
    const Ort& ort_;
    const OrtKernelContext* context_;
};

// The data of an output of this shape.
template <class T>
T* output(const Ort& ort, OrtKernelContext* context, std::size_t index, const Shape& shape) {
    OrtValue* value = nullptr;
    ort.check(ort.KernelContext_GetOutput(context, index, shape.dims.data(), shape.rank, &value));
    void* data = nullptr;
    if (value != nullptr) ort.check(ort.GetTensorMutableData(value, &data));
    return static_cast<T*>(data);
}

}  // namespace lazyneuron
