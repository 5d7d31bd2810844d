#include "cuda/modules.h"

#include <array>
#include <stdexcept>
#include <vector>

namespace lazyneuron::cuda {
namespace {

// What a block may have without asking for more.
constexpr int kFreeSharedBytes = 48 * 1024;
constexpr std::size_t kLogBytes = 2048;
constexpr int kOldestMajor = 8;  // what the PTX is made for

Device checked(Device device) {
    if (device.major >= kOldestMajor) return device;
    throw std::runtime_error(device.text() + " has compute capability " + std::to_string(device.major) + "." +
                             std::to_string(device.minor) + ", expected " + std::to_string(kOldestMajor) +
                             ".0 or later");
}

}  // namespace

Modules::Modules(const Driver& driver, Device device, KernelTable table)
    : driver_(driver),
      device_(checked(std::move(device))),
      table_(std::move(table)),
      context_(driver, device_) {}

Modules::~Modules() {
    const CUresult current = driver_.cuCtxPushCurrent(context_.get());
    for (const auto& [name, module] : loaded_) driver_.cuModuleUnload(module.first);
    CUcontext popped = nullptr;
    if (current == CUDA_SUCCESS) driver_.cuCtxPopCurrent(&popped);
}

std::shared_ptr<Modules> Modules::shared(const Driver& driver, int device) {
    static std::mutex mutex;
    static std::map<int, std::weak_ptr<Modules>> all;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Modules> modules = all[device].lock();
    if (modules == nullptr) {
        modules = std::make_shared<Modules>(driver, describe_device(driver, device),
                                            KernelTable::read(compiled_folder()));
        all[device] = modules;
    }
    return modules;
}

Kernel Modules::load(const std::string& name, const std::string& signature) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = loaded_.find(name);
    if (found != loaded_.end()) return found->second.second;
    const KernelSpec& spec = table_.find(name);
    if (spec.signature != signature) {
        throw TableError("the GPU kernel '" + name + "' takes " + spec.signature + ", expected " + signature +
                         "; it is of another version of lazyneuron, so install it again");
    }
    const CUmodule module = load_image(spec);
    Kernel kernel{&spec, nullptr};
    try {
        const std::string what = device_.text() + ": preparing kernel '" + name + "'";
        driver_.check(driver_.cuModuleGetFunction(&kernel.function, module, spec.entry.c_str()), what);
        if (spec.shared_bytes > kFreeSharedBytes) {
            driver_.check(
                driver_.cuFuncSetAttribute(kernel.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                           spec.shared_bytes),
                what + ", which needs " + std::to_string(spec.shared_bytes) +
                    " bytes of shared memory (the device has " + std::to_string(device_.shared_bytes) + ")");
        }
        loaded_.emplace(name, std::make_pair(module, kernel));
    } catch (...) {
        driver_.cuModuleUnload(module);
        throw;
    }
    return kernel;
}

CUmodule Modules::load_image(const KernelSpec& kernel) const {
    const std::string image = table_.image(kernel, device_.major, device_.minor);
    std::vector<char> log(kLogBytes, '\0');
    std::array<int, 2> options = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    // The driver takes a number as if it were a pointer.
    std::array<void*, 2> values = {log.data(), reinterpret_cast<void*>(log.size() - 1)};
    CUmodule module = nullptr;
    const CUresult result =
        driver_.cuModuleLoadDataEx(&module, image.c_str(), options.size(), options.data(), values.data());
    std::string reason = log.data();
    for (char& c : reason) c = c == '\n' ? ' ' : c;
    driver_.check(result, device_.text() + ": loading kernel '" + kernel.name + "'" +
                              (reason.empty() ? "" : " (" + reason + ")"));
    return module;
}

}  // namespace lazyneuron::cuda
