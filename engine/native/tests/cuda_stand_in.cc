#include "tests/cuda_stand_in.h"

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>

namespace lazyneuron::testing {
namespace {

constexpr int kOptInShared = 100 * 1024, kPlainShared = 48 * 1024;
constexpr std::size_t kTotal = std::size_t{4} << 30;
constexpr CUresult kInvalidValue = 1, kInvalidContext = 201, kInvalidImage = 200, kNotFound = 500;

StandIn* the_one = nullptr;
thread_local int depth = 0;

// Every function counts itself, may fail, and else does `body`.
#define STAND_IN(name, arguments, body)                                           \
    CUresult name arguments {                                                     \
        const auto lock = StandIn::current().lock();                              \
        if (const CUresult error = StandIn::current().enter(#name)) return error; \
        body;                                                                     \
        return CUDA_SUCCESS;                                                      \
    }
#define NEEDS_CONTEXT \
    if (depth == 0) return kInvalidContext

STAND_IN(cuInit, (unsigned), )
STAND_IN(cuDeviceGetCount, (int* count), *count = StandIn::current().device_count)
STAND_IN(cuDeviceGet, (CUdevice * device, int ordinal), {
    if (ordinal < 0 || ordinal >= StandIn::current().device_count) return 101;
    *device = 40 + ordinal;
})
STAND_IN(cuDeviceGetName, (char* name, int size, CUdevice),
         std::strncpy(name, "Stand-in", static_cast<std::size_t>(size)))
STAND_IN(cuDeviceGetAttribute, (int* value, int attribute, CUdevice), {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? StandIn::current().compute_capability
             : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR          ? 6
             : attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? kOptInShared
                                                                                  : 108;
})
STAND_IN(cuDeviceTotalMem, (std::size_t* bytes, CUdevice), *bytes = kTotal)
STAND_IN(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice), {
    ++StandIn::current().contexts;
    *context = reinterpret_cast<CUcontext>(&the_one);
})
STAND_IN(cuDevicePrimaryCtxRelease, (CUdevice), --StandIn::current().contexts)
STAND_IN(cuCtxPushCurrent, (CUcontext context), {
    if (context == nullptr) return kInvalidContext;
    ++depth;
})
STAND_IN(cuCtxPopCurrent, (CUcontext*), {
    NEEDS_CONTEXT;
    --depth;
})
STAND_IN(cuCtxSynchronize, (), NEEDS_CONTEXT)
STAND_IN(cuMemcpyHtoD, (CUdeviceptr target, const void* source, std::size_t bytes), {
    NEEDS_CONTEXT;
    if (!StandIn::current().holds(reinterpret_cast<void*>(target), bytes)) return kInvalidValue;
    std::memcpy(reinterpret_cast<void*>(target), source, bytes);
})
STAND_IN(cuMemcpyDtoH, (void* target, CUdeviceptr source, std::size_t bytes), {
    NEEDS_CONTEXT;
    if (!StandIn::current().holds(reinterpret_cast<void*>(source), bytes)) return kInvalidValue;
    std::memcpy(target, reinterpret_cast<void*>(source), bytes);
})
STAND_IN(cuModuleLoadDataEx, (CUmodule * module, const void* image, unsigned options, int*, void** values), {
    NEEDS_CONTEXT;
    if (options != 2) return kInvalidValue;
    if (const CUresult error = StandIn::current().load(module, static_cast<const char*>(image))) {
        std::strcpy(static_cast<char*>(values[0]), "ptxas fatal:\nnot an image");
        return error;
    }
})
STAND_IN(cuModuleUnload, (CUmodule module), {
    NEEDS_CONTEXT;
    StandIn& s = StandIn::current();
    s.functions.erase(reinterpret_cast<CUfunction>(module));
    s.modules.erase(reinterpret_cast<std::intptr_t>(module));
})
STAND_IN(cuModuleGetFunction, (CUfunction * function, CUmodule module, const char* name), {
    NEEDS_CONTEXT;
    const cuda::KernelSpec* const kernel =
        StandIn::current().modules.at(reinterpret_cast<std::intptr_t>(module));
    if (kernel->entry != name) return kNotFound;
    *function = reinterpret_cast<CUfunction>(module);
    StandIn::current().functions[*function] = kernel;
})
STAND_IN(cuFuncSetAttribute, (CUfunction function, int attribute, int value), {
    NEEDS_CONTEXT;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > kOptInShared)
        return kInvalidValue;
    StandIn::current().shared_limits[function] = value;
})
STAND_IN(cuLaunchKernel,
         (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
          unsigned shared, CUstream stream, void** parameters, void** extra),
         {
             NEEDS_CONTEXT;
             if (extra != nullptr) return kInvalidValue;
             return StandIn::current().launch(function, {gx, gy, gz}, {bx, by, bz}, shared, stream,
                                              parameters);
         })

CUresult cuGetErrorName(CUresult result, const char** name) {
    if (result == 999) return kInvalidValue;
    *name = result == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_TEST";
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
    *text = "its description";
    return CUDA_SUCCESS;
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
    return parts;
}

}  // namespace

int context_depth() { return depth; }

StandIn& StandIn::current() { return *the_one; }

StandIn::StandIn(const cuda::KernelTable& kernels) : table(kernels) {
    the_one = this;
#define STAND_IN_ENTRY(name, symbol, arguments) driver_.name = name;
    LAZYNEURON_CUDA_FUNCTIONS(STAND_IN_ENTRY)
#undef STAND_IN_ENTRY
}

StandIn::~StandIn() { the_one = nullptr; }

// Exactly as large as asked for, so that the address sanitizer sees what is beyond.
void* StandIn::allocate(std::size_t bytes) {
    if (const CUresult error = enter("allocate")) {
        throw std::runtime_error("no memory: " + driver_.error_text(error));
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) throw std::bad_alloc();
    std::memset(memory, 0xA5, bytes);  // nothing may rely on zeros
    const auto held = lock();
    memory_[static_cast<const char*>(memory)] = bytes;
    return memory;
}

void StandIn::release(void* memory) noexcept {
    if (memory == nullptr) return;
    const auto held = lock();
    memory_.erase(static_cast<const char*>(memory));
    std::free(memory);
}

bool StandIn::holds(const void* address, std::size_t bytes) const {
    const auto held = lock();
    const char* const begin = static_cast<const char*>(address);
    auto after = memory_.upper_bound(begin);
    if (after == memory_.begin()) return false;
    --after;
    return begin + bytes <= after->first + after->second;
}

void StandIn::fail(const std::string& function, int n, CUresult error) {
    failing_[function] = {calls(function) + n, error};
}

int StandIn::calls(const std::string& function) const {
    const auto found = calls_.find(function);
    return found != calls_.end() ? found->second : 0;
}

void StandIn::forget_calls() {
    calls_.clear();
    failing_.clear();
}

std::string StandIn::leaks() const {
    std::string text;
    if (!memory_.empty()) text += std::to_string(memory_.size()) + " allocations ";
    if (!modules.empty()) text += std::to_string(modules.size()) + " modules ";
    if (contexts != 0) text += std::to_string(contexts) + " contexts taken ";
    if (depth != 0) text += std::to_string(depth) + " contexts current";
    return text;
}

CUresult StandIn::enter(const char* function) {
    const auto held = lock();
    const int call = calls_[function]++;
    const auto found = failing_.find(function);
    return found != failing_.end() && found->second.first == call ? found->second.second : CUDA_SUCCESS;
}

// An image is known by its text: it is that of the table's kernel.
CUresult StandIn::load(CUmodule* module, const char* image) {
    static std::map<const cuda::KernelTable*, std::map<std::string, const cuda::KernelSpec*>> all;
    auto& images = all[&table];
    if (images.empty()) {
        for (const cuda::KernelSpec& kernel : table.kernels()) images[table.image(kernel, 8, 6)] = &kernel;
    }
    const auto found = images.find(image);
    if (found == images.end()) return kInvalidImage;
    modules[++loads_] = found->second;
    *module = reinterpret_cast<CUmodule>(loads_);
    return CUDA_SUCCESS;
}

CUresult StandIn::launch(CUfunction function, const std::size_t (&grid)[3], const std::size_t (&block)[3],
                         std::size_t shared, CUstream on, void** parameters) {
    const auto found = functions.find(function);
    if (found == functions.end()) return kNotFound;
    const cuda::KernelSpec& spec = *found->second;
    KernelCall call(spec, parameters);
    const auto hold = [&](bool holds, const std::string& what) {
        if (!holds) wrong.push_back(spec.name + ": " + what);
    };
    hold(on == stream, "another stream than the call's");
    hold(grid[0] >= 1 && grid[0] <= 2147483647, "blocks in x");
    for (const std::size_t i : {1, 2}) hold(grid[i] >= 1 && grid[i] <= 65535, "blocks in y or z");
    hold(block[0] == static_cast<std::size_t>(spec.warps) * 32 && block[1] == 1 && block[2] == 1, "threads");
    hold(shared == static_cast<std::size_t>(spec.shared_bytes), "shared memory");
    const auto limit = shared_limits.find(function);
    hold(static_cast<int>(shared) <= (limit != shared_limits.end() ? limit->second : kPlainShared),
         "more shared memory than was asked for");
    for (std::size_t i = 0; i < call.parameters(); ++i) {
        if (!call.is_pointer(i) || call.address(i) == nullptr) continue;
        hold(holds(call.address(i), 1), "parameter " + std::to_string(i) + " is no live memory");
        hold(reinterpret_cast<std::uintptr_t>(call.address(i)) % 16 == 0, "alignment");
    }
    for (std::size_t i = 0; i < 3; ++i) call.grid[i] = grid[i];
    launched.push_back(spec.name);
    try {
        run_kernel(call);
    } catch (const std::exception& error) {
        hold(false, error.what());
    }
    return CUDA_SUCCESS;
}

KernelCall::KernelCall(const cuda::KernelSpec& kernel, void** parameters)
    : spec(kernel), types_(split(kernel.signature)) {
    for (std::size_t i = 0; i < types_.size(); ++i) {
        Value value{};
        std::memcpy(&value, parameters[i], types_[i][0] == '*' ? sizeof(void*) : 4);
        values_.push_back(value);
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(kernel.hidden); ++i) {
        void* hidden = nullptr;
        std::memcpy(&hidden, parameters[types_.size() + i], sizeof hidden);
        if (hidden != nullptr)
            StandIn::current().wrong.push_back(kernel.name + ": a hidden parameter is not null");
    }
}

void* KernelCall::checked(std::size_t parameter, std::size_t bytes) const {
    if (bytes != 0 && !StandIn::current().holds(address(parameter), bytes)) {
        throw std::runtime_error("parameter " + std::to_string(parameter) + " has no " +
                                 std::to_string(bytes) + " bytes");
    }
    return address(parameter);
}

}  // namespace lazyneuron::testing
