#include "ops/shape_inference.h"

namespace lazyneuron {

std::optional<SymbolicShape> SymbolicShape::of_input(const Ort& ort, const OrtShapeInferContext* context,
                                                     std::size_t index) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own: it is not ours to release
    if (OrtStatus* status = ort.ShapeInferContext_GetInputTypeShape(context, index, &info)) {
        ort.ReleaseStatus(status);
        return std::nullopt;
    }
    if (info == nullptr) return std::nullopt;
    SymbolicShape result;
    result.shape_ = *read_tensor_info(ort, info).shape;
    std::array<const char*, Shape::kMaxRank> names{};
    ort.check(ort.GetSymbolicDimensions(info, names.data(), result.rank()));
    for (std::size_t i = 0; i < result.rank(); ++i) {
        if (names[i] != nullptr) result.names_[i] = names[i];
    }
    return result;
}

SymbolicShape SymbolicShape::leading() const {
    SymbolicShape result = *this;
    --result.shape_.rank;
    return result;
}

SymbolicShape SymbolicShape::with(const SymbolicShape& other, std::size_t i) const {
    SymbolicShape result = *this;
    result.names_[result.rank()] = other.names_[i];
    result.shape_.append(other.shape_[i]);
    return result;
}

void SymbolicShape::set_output(const Ort& ort, const OrtShapeInferContext* context, std::size_t index,
                               ONNXTensorElementDataType type) const {
    Handle<OrtTensorTypeAndShapeInfo> info(ort.ReleaseTensorTypeAndShapeInfo);
    ort.check(ort.CreateTensorTypeAndShapeInfo(info.out()));
    ort.check(ort.SetTensorElementType(info.get(), type));
    ort.check(ort.SetDimensions(info.get(), shape_.dims.data(), rank()));
    std::array<const char*, Shape::kMaxRank> names{};
    for (std::size_t i = 0; i < rank(); ++i) names[i] = names_[i].c_str();
    ort.check(ort.SetSymbolicDimensions(info.get(), names.data(), rank()));
    ort.check(ort.ShapeInferContext_SetOutputTypeShape(context, index, info.get()));
}

}  // namespace lazyneuron
