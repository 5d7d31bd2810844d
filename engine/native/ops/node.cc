#include "ops/node.h"

#include <vector>

namespace lazyneuron {
namespace {

// A status that only says whether something is there.
bool succeeded(const Ort& ort, OrtStatus* status) {
    if (status == nullptr) return true;
    ort.ReleaseStatus(status);
    return false;
}

}  // namespace

Node::Node(const Ort& ort, const OrtKernelInfo* info, const char* op) : ort_(ort), info_(info) {
    std::size_t size = 0;
    ort.check(ort.KernelInfo_GetNodeName(info, nullptr, &size));
    std::vector<char> name(size + 1, '\0');
    ort.check(ort.KernelInfo_GetNodeName(info, name.data(), &size));
    prefix_ = std::string(op) + " node '" + name.data() + "': ";
    ort.check(ort.KernelInfo_GetInputCount(info, &inputs_));
}

bool Node::has_attribute(const char* name, Kind kind) const {
    float number;
    std::int64_t integer;
    std::size_t size = 0;
    switch (kind) {
        case Kind::kFloat:
            return succeeded(ort_, ort_.KernelInfoGetAttribute_float(info_, name, &number));
        case Kind::kInt:
            return succeeded(ort_, ort_.KernelInfoGetAttribute_int64(info_, name, &integer));
        case Kind::kString:
            break;
    }
    return succeeded(ort_, ort_.KernelInfoGetAttribute_string(info_, name, nullptr, &size));
}

void Node::refuse_other_kinds(const char* name, Kind wanted) const {
    static const char* const names[] = {"a float", "an integer", "a string"};
    for (const Kind kind : {Kind::kFloat, Kind::kInt, Kind::kString}) {
        if (kind == wanted || !has_attribute(name, kind)) continue;
        throw Refusal("attribute '" + std::string(name) + "' is " + names[static_cast<int>(kind)] +
                      ", expected " + names[static_cast<int>(wanted)]);
    }
}

float Node::attribute(const char* name, float fallback) const {
    float value;
    if (succeeded(ort_, ort_.KernelInfoGetAttribute_float(info_, name, &value))) return value;
    refuse_other_kinds(name, Kind::kFloat);
    return fallback;
}

std::int64_t Node::attribute(const char* name, std::int64_t fallback) const {
    std::int64_t value;
    if (succeeded(ort_, ort_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
    refuse_other_kinds(name, Kind::kInt);
    return fallback;
}

std::string Node::attribute(const char* name, const char* fallback) const {
    std::size_t size = 0;
    if (!succeeded(ort_, ort_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) {
        refuse_other_kinds(name, Kind::kString);
        return fallback;
    }
    std::vector<char> value(size + 1, '\0');
    ort_.check(ort_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
    return value.data();
}

std::optional<TensorInfo> Node::input(std::size_t index) const {
    if (index >= inputs_) return std::nullopt;
    if (const OrtValue* value = constant(index)) return read_tensor_info(ort_, value);
    Handle<OrtTypeInfo> type(ort_.ReleaseTypeInfo);
    if (!succeeded(ort_, ort_.KernelInfo_GetInputTypeInfo(info_, index, type.out()))) return std::nullopt;
    if (type.get() == nullptr) return std::nullopt;
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    ort_.check(ort_.CastTypeInfoToTensorInfo(type.get(), &tensor));
    if (tensor == nullptr) return TensorInfo{};
    TensorInfo info = read_tensor_info(ort_, tensor);
    // The graph describes a tensor of unknown rank as it does a scalar; the call will tell.
    if (info.shape->rank == 0) info.shape.reset();
    return info;
}

const OrtValue* Node::constant(std::size_t index) const {
    if (index >= inputs_) return nullptr;
    int is_constant = 0;
    const OrtValue* value = nullptr;
    if (!succeeded(ort_, ort_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value)))
        return nullptr;
    return is_constant != 0 ? value : nullptr;
}

void Node::log(OrtLoggingLevel level, const std::string& message) const {
    const OrtLogger* logger = nullptr;
    if (!succeeded(ort_, ort_.KernelInfo_GetLogger(info_, &logger)) || logger == nullptr) return;
    succeeded(ort_, ort_.Logger_LogMessage(logger, level, (prefix_ + message).c_str(), "lazyneuron", 0, ""));
}

}  // namespace lazyneuron
