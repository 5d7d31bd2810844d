#include "cuda/introspection.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda/device.h"

namespace lazyneuron::cuda {
namespace {

void tell(const std::string& reason, char* why, std::size_t size) {
    if (size == 0) return;
    const std::size_t length = std::min(reason.size(), size - 1);
    std::memcpy(why, reason.data(), length);
    why[length] = '\0';
}

// What `body(driver)` returns, or `otherwise` with the reason.
template <class Result, class Body>
Result ask(Result otherwise, char* why, std::size_t size, const Body& body) noexcept {
    tell("", why, size);
    try {
        const OpenedDriver& opened = machine_driver();
        if (opened.why_none.empty()) return body(opened.driver);
        tell(opened.why_none, why, size);
    } catch (const std::exception& error) {
        tell(error.what(), why, size);
    }
    return otherwise;
}

}  // namespace
}  // namespace lazyneuron::cuda

int lazyneuron_cuda_devices(char* why, std::size_t size) {
    using namespace lazyneuron::cuda;
    return ask(0, why, size, [&](const Driver& driver) {
        const int count = device_count(driver);
        if (count == 0) tell("the NVIDIA driver finds no device", why, size);
        return count;
    });
}

int lazyneuron_cuda_device(int index, LazyneuronCudaDevice* out, char* why, std::size_t size) {
    using namespace lazyneuron::cuda;
    return ask(0, why, size, [&](const Driver& driver) {
        const Device device = describe_device(driver, index);
        *out = {};
        tell(device.name, out->name, sizeof out->name);
        out->major = device.major;
        out->minor = device.minor;
        out->multiprocessors = device.multiprocessors;
        out->memory_bytes = device.memory_bytes;
        return 1;
    });
}
