#include "cuda/device.h"

namespace lazyneuron::cuda {

std::string Device::text() const { return "CUDA device " + std::to_string(index) + " (" + name + ")"; }

int device_count(const Driver& driver) {
    int count = 0;
    const CUresult result = driver.cuDeviceGetCount(&count);
    if (result == CUDA_ERROR_NO_DEVICE) return 0;
    driver.check(result, "counting the CUDA devices");
    return count;
}

Device describe_device(const Driver& driver, int index) {
    const std::string what = "describing CUDA device " + std::to_string(index);
    Device device;
    device.index = index;
    driver.check(driver.cuDeviceGet(&device.handle, index), what);
    char name[256] = "";
    driver.check(driver.cuDeviceGetName(name, sizeof name, device.handle), what);
    device.name = name;
    const auto attribute = [&](int which) {
        int value = 0;
        driver.check(driver.cuDeviceGetAttribute(&value, which, device.handle), what);
        return value;
    };
    device.major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    device.minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    device.multiprocessors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    device.shared_bytes = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    std::size_t bytes = 0;
    driver.check(driver.cuDeviceTotalMem(&bytes, device.handle), what);
    device.memory_bytes = bytes;
    return device;
}

PrimaryContext::PrimaryContext(const Driver& driver, const Device& device)
    : driver_(driver), device_(device.handle) {
    driver.check(driver.cuDevicePrimaryCtxRetain(&context_, device_),
                 device.text() + ": taking its primary context");
}

PrimaryContext::~PrimaryContext() { driver_.cuDevicePrimaryCtxRelease(device_); }

CurrentContext::CurrentContext(const Driver& driver, const Device& device, CUcontext context)
    : driver_(driver) {
    driver.check(driver.cuCtxPushCurrent(context), device.text() + ": making its context current");
}

CurrentContext::~CurrentContext() {
    CUcontext context = nullptr;
    driver_.cuCtxPopCurrent(&context);
}

}  // namespace lazyneuron::cuda
