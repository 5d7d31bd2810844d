// What a node has on a GPU: its device, its compiled kernels, ONNX Runtime's memory there, and its constants.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "cuda/device_screen.h"
#include "cuda/down.h"
#include "cuda/modules.h"
#include "dispatch/aligned_buffer.h"
#include "ops/node.h"

namespace lazyneuron::cuda {

constexpr const char* kProviderName = "CUDAExecutionProvider";

// The way of the down projection: LAZYNEURON_GPU_DOWN's, but by rows where the weights are not known to be
// finite. `down` is readable here, or null where it is not a constant.
DownPath down_path_for(const void* down, const std::optional<Shape>& shape, WeightType type);

class GpuNode final : public Memory {
 public:
    // Throws where there is no driver, no device or no table of kernels.
    GpuNode(const Ort& ort, const Node& node);
    ~GpuNode();
    GpuNode(const GpuNode&) = delete;
    GpuNode& operator=(const GpuNode&) = delete;

    const std::shared_ptr<Modules>& modules() const { return modules_; }
    // The device's context is this thread's while the result lives.
    CurrentContext enter() const { return {modules_->driver(), modules_->device(), modules_->context()}; }

    // Of the execution provider's arena.
    void* allocate(std::size_t bytes) override;
    void release(void* memory) noexcept override { allocator_->Free(allocator_, memory); }

    // A constant's data, readable here: initializers of a node on a GPU lie in its memory. Null for null.
    const void* on_host(const OrtValue* constant, std::vector<AlignedBuffer>& copies) const;

    // Memory for one call, of the arena that knows the call's stream: when it is given back, no other stream
    // gets it before this one has come so far. In steady state the arena allocates nothing.
    class Scratch {
     public:
        Scratch(GpuNode& node, const OrtKernelContext* context, CUstream stream, std::size_t bytes);
        ~Scratch() {
            if (data_ != nullptr) node_.release(data_);
        }
        Scratch(const Scratch&) = delete;
        Scratch& operator=(const Scratch&) = delete;
        void* data() const { return data_; }

     private:
        GpuNode& node_;
        void* data_ = nullptr;
    };

    // The stream that ONNX Runtime wants a call's work on.
    CUstream stream(const OrtKernelContext* context) const;

 private:
    const Ort ort_;
    OrtAllocator* allocator_ = nullptr;
    std::shared_ptr<Modules> modules_;
};

}  // namespace lazyneuron::cuda
