// The bits of the kernels' parameter `flags`: engine/gpu/kernels/common.py has the same. Where a bit is not
// set the kernel never follows the pointer that goes with it.
#pragma once

#include <cstddef>

namespace lazyneuron::cuda {

enum Flag : std::size_t {
    kBudget = 1,
    kBias = 2,
    kDownBias = 4,
    kDownScale = 8,
    kScale = 16,
    kShift = 32,
    kStretch = 64,
    kDraw = 128,
    kIndex = 256,
    kFactor = 512,
    kByMagnitude = 1024,
    kGateMode = 2048,
    kPartial = 4096
};

// The flag if it is so, or if what it tells of is there.
constexpr std::size_t flag_if(bool holds, Flag flag) { return holds ? static_cast<std::size_t>(flag) : 0; }
inline std::size_t flag_if(const void* given, Flag flag) { return flag_if(given != nullptr, flag); }

}  // namespace lazyneuron::cuda
