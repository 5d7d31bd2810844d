// What an operator learns about its node when the session is built: name, attributes, inputs, constants.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "ops/ort.h"
#include "ops/shapes.h"

namespace lazyneuron {

class Node {
 public:
    Node(const Ort& ort, const OrtKernelInfo* info, const char* op);

    // "SparseDown node 'encoder/mlp': ", the start of every message about it.
    const std::string& prefix() const { return prefix_; }

    const OrtKernelInfo* info() const { return info_; }

    // Attributes with their defaults; one of another type is refused.
    float attribute(const char* name, float fallback) const;
    std::int64_t attribute(const char* name, std::int64_t fallback) const;
    std::string attribute(const char* name, const char* fallback) const;

    // Type and shape of an input as far as the graph tells; empty if the node does not have it.
    std::optional<TensorInfo> input(std::size_t index) const;
    // The input's value if it is a constant of the graph, else null.
    const OrtValue* constant(std::size_t index) const;

    void log(OrtLoggingLevel level, const std::string& message) const;

 private:
    enum class Kind { kFloat, kInt, kString };
    bool has_attribute(const char* name, Kind kind) const;
    // For an attribute that could not be read as `wanted`: absent, or of another type, which is refused.
    void refuse_other_kinds(const char* name, Kind wanted) const;

    const Ort& ort_;
    const OrtKernelInfo* info_;
    std::string prefix_;
    std::size_t inputs_ = 0;
};

// The data of a tensor. The runtime has no const variant of this function.
template <class T>
const T* tensor_data(const Ort& ort, const OrtValue* value) {
    if (value == nullptr) return nullptr;
    void* data = nullptr;
    ort.check(ort.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    return static_cast<const T*>(data);
}

// Type, shape and data of each input of a call; what it does not have stays as it is.
template <std::size_t N>
void read_inputs(const Ort& ort, OrtKernelContext* context, std::array<std::optional<TensorInfo>, N>& inputs,
                 std::array<const void*, N>& data) {
    std::size_t count = 0;
    ort.check(ort.KernelContext_GetInputCount(context, &count));
    for (std::size_t i = 0; i < N && i < count; ++i) {
        const OrtValue* value = nullptr;
        ort.check(ort.KernelContext_GetInput(context, i, &value));
        if (value == nullptr) continue;
        inputs[i] = read_tensor_info(ort, value);
        data[i] = tensor_data<void>(ort, value);
    }
}

}  // namespace lazyneuron
