// The part of CUDA's driver API that this library uses, declared here because a build needs no CUDA toolkit
// and serving no more than the driver's libcuda. The ABI is stable: a function that changed got a new symbol
// (`_v2`), and the old one stayed.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct CUctx_st;
struct CUmod_st;
struct CUfunc_st;
struct CUstream_st;

}  // extern "C"

using CUresult = int;
using CUdevice = int;
using CUcontext = CUctx_st*;
using CUmodule = CUmod_st*;
using CUfunction = CUfunc_st*;
using CUstream = CUstream_st*;
using CUdeviceptr = std::uintptr_t;  // of 64 bits on every platform that CUDA still has

constexpr CUresult CUDA_SUCCESS = 0;
constexpr CUresult CUDA_ERROR_OUT_OF_MEMORY = 2;
constexpr CUresult CUDA_ERROR_NO_DEVICE = 100;

// CUdevice_attribute
constexpr int CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16;
constexpr int CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76;
constexpr int CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;

// CUfunction_attribute
constexpr int CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;

// CUjit_option
constexpr int CU_JIT_ERROR_LOG_BUFFER = 5;
constexpr int CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6;

// Name, symbol, arguments of every function that is used.
#define LAZYNEURON_CUDA_FUNCTIONS(F)                                                                      \
    F(cuInit, cuInit, (unsigned flags))                                                                   \
    F(cuGetErrorName, cuGetErrorName, (CUresult, const char** name))                                      \
    F(cuGetErrorString, cuGetErrorString, (CUresult, const char** text))                                  \
    F(cuDeviceGetCount, cuDeviceGetCount, (int* count))                                                   \
    F(cuDeviceGet, cuDeviceGet, (CUdevice * device, int ordinal))                                         \
    F(cuDeviceGetName, cuDeviceGetName, (char* name, int size, CUdevice))                                 \
    F(cuDeviceGetAttribute, cuDeviceGetAttribute, (int* value, int attribute, CUdevice))                  \
    F(cuDeviceTotalMem, cuDeviceTotalMem_v2, (std::size_t* bytes, CUdevice))                              \
    F(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice))                \
    F(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice))                                \
    F(cuCtxPushCurrent, cuCtxPushCurrent_v2, (CUcontext))                                                 \
    F(cuCtxPopCurrent, cuCtxPopCurrent_v2, (CUcontext * context))                                         \
    F(cuCtxSynchronize, cuCtxSynchronize, ())                                                             \
    F(cuMemcpyHtoD, cuMemcpyHtoD_v2, (CUdeviceptr target, const void* source, std::size_t bytes))         \
    F(cuMemcpyDtoH, cuMemcpyDtoH_v2, (void* target, CUdeviceptr source, std::size_t bytes))               \
    F(cuModuleLoadDataEx, cuModuleLoadDataEx,                                                             \
      (CUmodule * module, const void* image, unsigned options, int* names, void** values))                \
    F(cuModuleUnload, cuModuleUnload, (CUmodule))                                                         \
    F(cuModuleGetFunction, cuModuleGetFunction, (CUfunction * function, CUmodule, const char* name))      \
    F(cuFuncSetAttribute, cuFuncSetAttribute, (CUfunction, int attribute, int value))                     \
    F(cuLaunchKernel, cuLaunchKernel,                                                                     \
      (CUfunction, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
       unsigned block_z, unsigned shared_bytes, CUstream, void** parameters, void** extra))
