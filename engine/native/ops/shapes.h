// Shapes and types of tensors, how they read in messages, and the checks that operators share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "ops/ort.h"

namespace lazyneuron {

// A shape without heap memory, since every call makes some. A negative dimension is not known yet.
struct Shape {
    static constexpr std::size_t kMaxRank = 16;
    std::size_t rank = 0;
    std::array<std::int64_t, kMaxRank> dims{};

    std::int64_t operator[](std::size_t i) const { return dims[i]; }
    std::int64_t last() const { return dims[rank - 1]; }
    Shape leading() const;  // without the last dimension
    void append(std::int64_t dim) { dims[rank++] = dim; }
    std::size_t elements() const;  // of a known shape
};

struct TensorInfo {
    ONNXTensorElementDataType type = ONNX_UNDEFINED;
    std::optional<Shape> shape;  // empty: not even the rank is known
};

// A tensor's type and shape from a runtime's description of it. Throws a Refusal above Shape::kMaxRank.
TensorInfo read_tensor_info(const Ort& ort, const OrtTensorTypeAndShapeInfo* info);
TensorInfo read_tensor_info(const Ort& ort, const OrtValue* value);

std::string to_text(const Shape& shape);  // "[2, ?, 3072]"
std::string to_text(ONNXTensorElementDataType type);

// Two dimensions that cannot be the same: both known and different.
inline bool conflict(std::int64_t a, std::int64_t b) { return a >= 0 && b >= 0 && a != b; }
bool conflict(const Shape& a, const Shape& b);

// The known one of two dimensions that do not conflict, or a negative number.
inline std::int64_t known(std::int64_t a, std::int64_t b) { return a >= 0 ? a : b; }

}  // namespace lazyneuron
