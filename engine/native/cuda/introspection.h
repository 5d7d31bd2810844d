// Plain C functions that tell a program which GPUs the operators could run on. A reason is written to `why`,
// cut to `size` bytes with its final zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/export.h"

struct LazyneuronCudaDevice {
    char name[256];
    std::int32_t major, minor;  // compute capability
    std::int32_t multiprocessors;
    std::int32_t reserved;
    std::uint64_t memory_bytes;
};
static_assert(sizeof(LazyneuronCudaDevice) == 280, "engine/gpu/driver.py has the same layout");

// How many CUDA devices there are; 0 with the reason.
LAZYNEURON_EXPORT int lazyneuron_cuda_devices(char* why, std::size_t size);

// 1 with the device's description, or 0 with the reason.
LAZYNEURON_EXPORT int lazyneuron_cuda_device(int index, LazyneuronCudaDevice* out, char* why,
                                             std::size_t size);
