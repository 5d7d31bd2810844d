// A stand-in for CUDA's driver: its functions, on the host's memory. It holds every launch to the table of
// kernels and to the device's limits, lets any call fail, and knows what has not been given back.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/device_screen.h"
#include "cuda/kernel_table.h"
#include "tests/testing.h"

namespace lazyneuron::testing {

// One launch, as a kernel's meaning sees it. A wrong access throws a std::runtime_error.
class KernelCall {
 public:
    KernelCall(const cuda::KernelSpec& kernel, void** parameters);

    const cuda::KernelSpec& spec;
    std::size_t grid[3] = {1, 1, 1};

    // `count` elements of a parameter's array, all in one live allocation.
    template <class T>
    T* array(std::size_t parameter, std::size_t count) const {
        return static_cast<T*>(checked(parameter, count * sizeof(T)));
    }
    std::size_t size(std::size_t parameter) const {
        return static_cast<std::size_t>(values_.at(parameter).integer);
    }
    float real(std::size_t parameter) const { return values_.at(parameter).real; }
    void* address(std::size_t parameter) const { return values_.at(parameter).pointer; }
    std::size_t parameters() const { return values_.size(); }
    bool is_pointer(std::size_t parameter) const { return types_.at(parameter)[0] == '*'; }
    // The type of the weights, of the kernels that have some: the second part of the name.
    std::string weights() const { return spec.name.substr(spec.name.find('.') + 1); }

 private:
    union Value {
        void* pointer;
        std::int32_t integer;
        float real;
    };
    void* checked(std::size_t parameter, std::size_t bytes) const;

    std::vector<std::string> types_;
    std::vector<Value> values_;
};

// What a kernel does, on host memory: cuda_kernels.cc.
void run_kernel(const KernelCall& call);

class StandIn final : public cuda::Memory {
 public:
    explicit StandIn(const cuda::KernelTable& table);
    ~StandIn();

    const cuda::Driver& driver() const { return driver_; }
    static StandIn& current();

    void* allocate(std::size_t bytes) override;
    void release(void* memory) noexcept override;
    bool holds(const void* address, std::size_t bytes) const;

    // The n-th call of the function from now on (0: the next) fails with this error.
    void fail(const std::string& function, int n, CUresult error);
    int calls(const std::string& function) const;
    void forget_calls();

    // What is still alive: allocations, modules, contexts that were taken or made current.
    std::string leaks() const;
    std::vector<std::string> launched;  // names, in order
    CUstream stream = nullptr;          // that launches must be on
    std::vector<std::string> wrong;     // what launches did that they must not

    // Used by the functions that stand in for the driver's; one runs at a time.
    std::unique_lock<std::recursive_mutex> lock() const { return std::unique_lock(mutex_); }
    CUresult enter(const char* function);
    CUresult load(CUmodule* module, const char* image);
    CUresult launch(CUfunction function, const std::size_t (&grid)[3], const std::size_t (&block)[3],
                    std::size_t shared, CUstream on, void** parameters);

    const cuda::KernelTable& table;
    int device_count = 1;
    int compute_capability = 8;  // its major number
    int contexts = 0;
    std::map<std::intptr_t, const cuda::KernelSpec*> modules;
    std::map<CUfunction, const cuda::KernelSpec*> functions;
    std::map<CUfunction, int> shared_limits;

 private:
    cuda::Driver driver_;
    std::intptr_t loads_ = 0;
    mutable std::recursive_mutex mutex_;
    std::map<const char*, std::size_t> memory_;
    std::map<std::string, int> calls_;
    std::map<std::string, std::pair<int, CUresult>> failing_;
};

// How deep this thread's stack of contexts is.
int context_depth();

}  // namespace lazyneuron::testing
