#include "cuda/launch.h"

#include <climits>
#include <stdexcept>
#include <string>

namespace lazyneuron::cuda {
namespace {

constexpr std::size_t kWarp = 32;
constexpr std::size_t kMostBlocks[3] = {INT_MAX, 65535, 65535};
constexpr std::uintptr_t kAlignment = 16;  // what the kernels were compiled for

constexpr std::size_t tiles(std::size_t size, int block) {
    const auto unit = static_cast<std::size_t>(block);
    return (size + unit - 1) / unit;
}

[[noreturn]] void refuse(const KernelSpec& kernel, const std::string& what) {
    throw std::invalid_argument("GPU kernel '" + kernel.name + "': " + what);
}

}  // namespace

std::size_t blocks(GridRule rule, const KernelSpec& kernel, const GridSizes& sizes) {
    switch (rule) {
        case GridRule::kOne:
            return 1;
        case GridRule::kRows:
            return sizes.rows;
        case GridRule::kRowTiles:
            return tiles(sizes.rows, kernel.block_rows);
        case GridRule::kNeuronTiles:
            return tiles(sizes.neurons, kernel.block_neurons);
        case GridRule::kColumnTiles:
            return tiles(sizes.columns, kernel.block_columns);
        case GridRule::kSplits:
            break;
    }
    return sizes.splits;
}

Arguments::Value& Arguments::next(Kind kind) {
    kinds_.at(count_) = kind;
    return values_.at(count_++);
}

Arguments& Arguments::pointer(const void* address) {
    next(Kind::kPointer).pointer = address;
    return *this;
}

Arguments& Arguments::integer(std::size_t value) {
    too_large_ |= value > INT_MAX;
    next(Kind::kInteger).integer = static_cast<std::int32_t>(value);
    return *this;
}

Arguments& Arguments::real(float value) {
    next(Kind::kReal).real = value;
    return *this;
}

void** Arguments::addresses(std::size_t hidden) {
    for (std::size_t i = count_; i < count_ + hidden; ++i) values_.at(i).pointer = nullptr;
    for (std::size_t i = 0; i < count_ + hidden; ++i) addresses_.at(i) = &values_[i];
    return addresses_.data();
}

void Arguments::check(const KernelSpec& kernel) const {
    if (too_large_) refuse(kernel, "a size is 2^31 or more, which it was not compiled for");
    std::size_t i = 0;
    for (std::size_t at = 0; at <= kernel.signature.size(); ++i) {
        const std::size_t end = std::min(kernel.signature.find(',', at), kernel.signature.size());
        const char first = kernel.signature[at];
        const Kind kind = first == '*' ? Kind::kPointer : first == 'i' ? Kind::kInteger : Kind::kReal;
        if (i >= count_ || kinds_[i] != kind) refuse(kernel, "expected the arguments " + kernel.signature);
        if (kind == Kind::kPointer &&
            reinterpret_cast<std::uintptr_t>(values_[i].pointer) % kAlignment != 0) {
            refuse(kernel, "its argument " + std::to_string(i) +
                               " lies at an address that is no multiple of " + std::to_string(kAlignment) +
                               "; expected tensors as ONNX Runtime allocates them");
        }
        at = end + 1;
    }
    if (i != count_) refuse(kernel, "expected the arguments " + kernel.signature);
}

void launch(const Modules& modules, const Kernel& kernel, const GridSizes& sizes, Arguments& arguments,
            CUstream stream) {
    const KernelSpec& spec = *kernel.spec;
    arguments.check(spec);
    unsigned grid[3];
    for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t count = blocks(spec.grid[i], spec, sizes);
        if (count == 0 || count > kMostBlocks[i]) {
            refuse(spec, std::to_string(count) + " blocks in dimension " + std::to_string(i) +
                             " of its grid, expected 1 to " + std::to_string(kMostBlocks[i]));
        }
        grid[i] = static_cast<unsigned>(count);
    }
    const auto threads = static_cast<unsigned>(static_cast<std::size_t>(spec.warps) * kWarp);
    const CUresult result = modules.driver().cuLaunchKernel(
        kernel.function, grid[0], grid[1], grid[2], threads, 1, 1, static_cast<unsigned>(spec.shared_bytes),
        stream, arguments.addresses(static_cast<std::size_t>(spec.hidden)), nullptr);
    if (result == CUDA_SUCCESS) return;  // no text is made where all is well
    modules.driver().check(result, modules.device().text() + ": launching kernel '" + spec.name + "'");
}

}  // namespace lazyneuron::cuda
