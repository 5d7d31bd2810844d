// CUDA's driver functions as a table of typed pointers, and its errors as exceptions. Whoever works with a
// GPU gets the table handed in, so that tests hand in another.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/cuda_abi.h"

namespace lazyneuron::cuda {

// A call of the driver that failed. The message names the device, what was tried and CUDA's error.
class CudaError : public std::runtime_error {
 public:
    CudaError(CUresult result, const std::string& message) : std::runtime_error(message), result_(result) {}
    CUresult result() const { return result_; }

 private:
    CUresult result_;
};

struct Driver {
#define LAZYNEURON_CUDA_MEMBER(name, symbol, arguments) CUresult(*name) arguments = nullptr;
    LAZYNEURON_CUDA_FUNCTIONS(LAZYNEURON_CUDA_MEMBER)
#undef LAZYNEURON_CUDA_MEMBER

    // "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
    std::string error_text(CUresult result) const;
    // Throws a CudaError "what: CUDA_ERROR_..." unless the call succeeded.
    void check(CUresult result, const std::string& what) const;
};

// What opening the machine's driver gave: a table, or the reason why there is none.
struct OpenedDriver {
    Driver driver;
    std::string why_none;  // empty: `driver` can be used
};

// Opens a driver library and initialises it; the library stays loaded for as long as the process lives.
OpenedDriver open_driver(const char* library);

// The machine's, opened at the first call.
const OpenedDriver& machine_driver();

}  // namespace lazyneuron::cuda
