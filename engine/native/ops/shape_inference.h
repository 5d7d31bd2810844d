// Shapes with named dimensions, for inferring an operator's output shapes when the graph is loaded.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "ops/shapes.h"

namespace lazyneuron {

class SymbolicShape {
 public:
    // Empty if the graph does not know the input's shape.
    static std::optional<SymbolicShape> of_input(const Ort& ort, const OrtShapeInferContext* context,
                                                 std::size_t index);

    std::size_t rank() const { return shape_.rank; }
    SymbolicShape leading() const;                                        // without the last dimension
    SymbolicShape with(const SymbolicShape& other, std::size_t i) const;  // and the other's dimension i
    void set_output(const Ort& ort, const OrtShapeInferContext* context, std::size_t index,
                    ONNXTensorElementDataType type) const;

 private:
    Shape shape_;
    std::array<std::string, Shape::kMaxRank> names_;  // empty: no name, or a known dimension
};

}  // namespace lazyneuron
