// A stand-in for ONNX Runtime: as much of its C API as a node on a GPU calls. Device memory is the driver's
// stand-in's. A function that is not there ends the test.
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "ort_abi.h"
#include "tests/cuda_stand_in.h"

struct OrtStatus {
    OrtErrorCode code;
    std::string message;
};

struct OrtMemoryInfo {
    OrtMemoryInfoDeviceType type;
    int id;
};

struct OrtTensorTypeAndShapeInfo {
    ONNXTensorElementDataType type = ONNX_UNDEFINED;
    std::vector<std::int64_t> dims;
};

struct OrtTypeInfo {
    OrtTensorTypeAndShapeInfo tensor;
};

struct OrtValue {
    OrtTensorTypeAndShapeInfo info;
    void* data = nullptr;
    OrtMemoryInfo memory{OrtMemoryInfoDeviceType_GPU, 0};
};

// A node: an input without a type is not there.
struct OrtKernelInfo {
    std::string name;
    std::map<std::string, std::variant<float, std::int64_t, std::string>> attributes;
    std::vector<OrtTensorTypeAndShapeInfo> inputs;
    std::vector<const OrtValue*> constants;  // null: not one
};

struct OrtKernelContext {
    std::vector<const OrtValue*> inputs;  // null: not there
    std::map<std::size_t, OrtValue> outputs;
    CUstream stream = nullptr;
    bool no_scratch = false;
};

namespace lazyneuron::testing {

// The table of functions.
const OrtApi* ort_stand_in();

// Statuses, descriptions and allocators that were made and not released.
int ort_objects();

}  // namespace lazyneuron::testing
