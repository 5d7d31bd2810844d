// A GPU: what it is, and its primary context made current for a while.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/driver.h"

namespace lazyneuron::cuda {

struct Device {
    CUdevice handle = 0;
    int index = 0;
    std::string name;
    int major = 0, minor = 0;  // compute capability
    int multiprocessors = 0;
    std::int64_t shared_bytes = 0;  // that one block may have
    std::uint64_t memory_bytes = 0;

    std::string text() const;  // "CUDA device 0 (NVIDIA A100-SXM4-80GB)"
};

int device_count(const Driver& driver);
Device describe_device(const Driver& driver, int index);

// The device's primary context, which ONNX Runtime works in, kept alive while this lives.
class PrimaryContext {
 public:
    PrimaryContext(const Driver& driver, const Device& device);
    ~PrimaryContext();
    PrimaryContext(const PrimaryContext&) = delete;
    PrimaryContext& operator=(const PrimaryContext&) = delete;
    CUcontext get() const { return context_; }

 private:
    const Driver& driver_;
    const CUdevice device_;
    CUcontext context_ = nullptr;
};

// A context that is this thread's current one while this lives.
class CurrentContext {
 public:
    CurrentContext(const Driver& driver, const Device& device, CUcontext context);
    ~CurrentContext();
    CurrentContext(const CurrentContext&) = delete;
    CurrentContext& operator=(const CurrentContext&) = delete;

 private:
    const Driver& driver_;
};

}  // namespace lazyneuron::cuda
