// The neurons' side of the certified screen in a device's memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/modules.h"
#include "dispatch/screen.h"

namespace lazyneuron::cuda {

// Memory on the device, of whoever runs us.
class Memory {
 public:
    virtual void* allocate(std::size_t bytes) = 0;  // throws
    virtual void release(void* memory) noexcept = 0;

 protected:
    ~Memory() = default;
};

class DeviceScreen {
 public:
    // Copies what the CPU's builder made. The device's context is current. Throws a CudaError.
    DeviceScreen(const Modules& modules, Memory& memory, const Screen& screen);
    ~DeviceScreen() { memory_.release(data_); }
    DeviceScreen(const DeviceScreen&) = delete;
    DeviceScreen& operator=(const DeviceScreen&) = delete;

    std::size_t code_stride() const { return code_stride_; }
    const std::int8_t* codes() const { return codes_; }  // [neurons][code_stride]
    const ScreenTerms& terms() const { return terms_; }  // its pointers are the device's

 private:
    Memory& memory_;
    const std::size_t code_stride_;
    ScreenTerms terms_;
    void* data_ = nullptr;
    const std::int8_t* codes_ = nullptr;
};

}  // namespace lazyneuron::cuda
