#include "ops/shapes.h"

namespace lazyneuron {

Shape Shape::leading() const {
    Shape shape = *this;
    --shape.rank;
    return shape;
}

std::size_t Shape::elements() const {
    std::size_t count = 1;
    for (std::size_t i = 0; i < rank; ++i) count *= static_cast<std::size_t>(dims[i]);
    return count;
}

TensorInfo read_tensor_info(const Ort& ort, const OrtTensorTypeAndShapeInfo* info) {
    TensorInfo result;
    ort.check(ort.GetTensorElementType(info, &result.type));
    Shape shape;
    ort.check(ort.GetDimensionsCount(info, &shape.rank));
    if (shape.rank > Shape::kMaxRank) {
        throw Refusal("got a tensor of rank " + std::to_string(shape.rank) + ", expected at most " +
                      std::to_string(Shape::kMaxRank));
    }
    ort.check(ort.GetDimensions(info, shape.dims.data(), shape.rank));
    result.shape = shape;
    return result;
}

TensorInfo read_tensor_info(const Ort& ort, const OrtValue* value) {
    Handle<OrtTensorTypeAndShapeInfo> info(ort.ReleaseTensorTypeAndShapeInfo);
    ort.check(ort.GetTensorTypeAndShape(value, info.out()));
    return read_tensor_info(ort, info.get());
}

std::string to_text(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.rank; ++i) {
        if (i != 0) text += ", ";
        text += shape[i] < 0 ? "?" : std::to_string(shape[i]);
    }
    return text + "]";
}

std::string to_text(ONNXTensorElementDataType type) {
    // In the order of ONNXTensorElementDataType.
    static const char* const names[] = {
        "undefined", "float32", "uint8",   "int8",   "uint16", "int16",     "int32",      "int64",   "string",
        "bool",      "float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16"};
    const auto i = static_cast<std::size_t>(type);
    return i < sizeof names / sizeof *names ? names[i] : "type " + std::to_string(i);
}

bool conflict(const Shape& a, const Shape& b) {
    if (a.rank != b.rank) return true;
    for (std::size_t i = 0; i < a.rank; ++i) {
        if (conflict(a[i], b[i])) return true;
    }
    return false;
}

}  // namespace lazyneuron
