// The compiled kernels as a device has them: loaded once, whoever uses them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/device.h"
#include "cuda/kernel_table.h"

namespace lazyneuron::cuda {

struct Kernel {
    const KernelSpec* spec = nullptr;  // null: not loaded
    CUfunction function = nullptr;
};

class Modules {
 public:
    // Keeps the device's primary context alive for as long as it lives. Throws a CudaError, or a
    // std::runtime_error for a device that the kernels are not made for.
    Modules(const Driver& driver, Device device, KernelTable table);
    ~Modules();
    Modules(const Modules&) = delete;
    Modules& operator=(const Modules&) = delete;

    // The one that all operators of the process share on a device; it goes when the last of them does.
    static std::shared_ptr<Modules> shared(const Driver& driver, int device);

    const Driver& driver() const { return driver_; }
    const Device& device() const { return device_; }
    CUcontext context() const { return context_.get(); }

    // Loads the kernel if it is not yet, in the device's context, which is current. `signature` is what the
    // caller will give it. Throws a CudaError or a TableError.
    Kernel load(const std::string& name, const std::string& signature);

 private:
    CUmodule load_image(const KernelSpec& kernel) const;

    const Driver& driver_;
    const Device device_;
    const KernelTable table_;
    const PrimaryContext context_;
    std::mutex mutex_;
    std::map<std::string, std::pair<CUmodule, Kernel>> loaded_;
};

}  // namespace lazyneuron::cuda
