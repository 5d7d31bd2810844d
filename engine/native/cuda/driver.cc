#include "cuda/driver.h"

#include <dlfcn.h>

namespace lazyneuron::cuda {

std::string Driver::error_text(CUresult result) const {
    const char *name = nullptr, *text = nullptr;
    if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) {
        return "CUDA error " + std::to_string(result);
    }
    const bool described = cuGetErrorString(result, &text) == CUDA_SUCCESS && text != nullptr;
    return std::string(name) + (described ? " (" + std::string(text) + ")" : "");
}

void Driver::check(CUresult result, const std::string& what) const {
    if (result != CUDA_SUCCESS) throw CudaError(result, what + ": " + error_text(result));
}

OpenedDriver open_driver(const char* library) {
    OpenedDriver opened;
    void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char* const reason = dlerror();
        opened.why_none = "there is no NVIDIA driver: " + std::string(reason != nullptr ? reason : library);
        return opened;
    }
#define LAZYNEURON_CUDA_LOOKUP(name, symbol, arguments)                                            \
    opened.driver.name = reinterpret_cast<decltype(opened.driver.name)>(dlsym(handle, #symbol));   \
    if (opened.driver.name == nullptr) {                                                           \
        opened.why_none =                                                                          \
            std::string(library) + " has no function " #symbol ", expected a newer NVIDIA driver"; \
        return opened;                                                                             \
    }
    LAZYNEURON_CUDA_FUNCTIONS(LAZYNEURON_CUDA_LOOKUP)
#undef LAZYNEURON_CUDA_LOOKUP
    const CUresult result = opened.driver.cuInit(0);
    if (result != CUDA_SUCCESS) {
        opened.why_none =
            std::string(library) + " cannot be initialised: " + opened.driver.error_text(result);
    }
    return opened;
}

}  // namespace lazyneuron::cuda
