// One launch of a kernel: its arguments and its grid, checked before the driver sees them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cuda/modules.h"

namespace lazyneuron::cuda {

// Sizes that grids are counted from.
struct GridSizes {
    std::size_t rows = 1, neurons = 1, columns = 1, splits = 1;
};

// How many blocks a rule makes.
std::size_t blocks(GridRule rule, const KernelSpec& kernel, const GridSizes& sizes);

// A kernel's arguments in their order.
class Arguments {
 public:
    Arguments& pointer(const void* address);
    Arguments& integer(std::size_t value);  // below 2^31
    Arguments& real(float value);

    std::size_t count() const { return count_; }
    // What the driver wants: where each argument lies. `hidden` null pointers follow.
    void** addresses(std::size_t hidden);
    // Throws a std::invalid_argument for a number or an address that no kernel was compiled for.
    void check(const KernelSpec& kernel) const;

 private:
    static constexpr std::size_t kMost = 48;
    enum class Kind : char { kPointer, kInteger, kReal };
    union Value {
        const void* pointer;
        std::int32_t integer;
        float real;
    };
    Value& next(Kind kind);

    std::array<Value, kMost> values_{};
    std::array<Kind, kMost> kinds_{};
    std::array<void*, kMost> addresses_{};
    std::size_t count_ = 0;
    bool too_large_ = false;
};

// Launches on the stream, in the device's context, which is current. Throws a CudaError or a
// std::invalid_argument.
void launch(const Modules& modules, const Kernel& kernel, const GridSizes& sizes, Arguments& arguments,
            CUstream stream);

}  // namespace lazyneuron::cuda
