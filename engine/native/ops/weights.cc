#include "ops/weights.h"

#include <atomic>
#include <cmath>
#include <cstring>

namespace lazyneuron {
namespace {

// Of 16-bit floats, by the bits of their infinity.
bool is_nan_bits(std::uint16_t bits, unsigned infinity) { return (bits & 0x7FFFu) > infinity; }

bool is_nan(const void* data, WeightType type, std::size_t i) {
    switch (type) {
        case WeightType::kFloat32:
            return std::isnan(static_cast<const float*>(data)[i]);
        case WeightType::kFloat16:
            return is_nan_bits(static_cast<const std::uint16_t*>(data)[i], 0x7C00u);
        case WeightType::kBFloat16:
            return is_nan_bits(static_cast<const std::uint16_t*>(data)[i], 0x7F80u);
        case WeightType::kInt8:
            break;
    }
    return false;
}

}  // namespace

WeightType weight_type(const char* name, ONNXTensorElementDataType type, Target target) {
    if (type == ONNX_FLOAT) return WeightType::kFloat32;
    if (type == ONNX_FLOAT16) return WeightType::kFloat16;
    if (type == ONNX_INT8) return WeightType::kInt8;
    if (type == ONNX_BFLOAT16 && target == Target::kCuda) return WeightType::kBFloat16;
    throw Refusal("input '" + std::string(name) + "' is " + to_text(type) + ", expected float32, float16" +
                  (target == Target::kCuda ? ", bfloat16" : "") + " or int8");
}

void refuse_nan_in_matrix(const char* name, const void* data, WeightType type, std::size_t neurons,
                          std::size_t columns) {
    if (type == WeightType::kInt8) return;
    for (std::size_t i = 0; i < neurons * columns; ++i) {
        if (!is_nan(data, type, i)) continue;
        throw Refusal("input '" + std::string(name) + "' is NaN at neuron " + std::to_string(i / columns) +
                      ", column " + std::to_string(i % columns) + ", expected a number");
    }
}

void refuse_nan_in_vector(const char* name, const float* data, std::size_t size, const char* what) {
    for (std::size_t i = 0; i < size; ++i) {
        if (!std::isnan(data[i])) continue;
        throw Refusal("input '" + std::string(name) + "' is NaN at " + what + " " + std::to_string(i) +
                      ", expected a number");
    }
}

AlignedBuffer copy_weights(const void* weights, std::size_t bytes) {
    AlignedBuffer copy = AlignedBuffer::in_huge_pages(bytes);
    std::memcpy(copy.data(), weights, bytes);
    let_go(weights, bytes);
    return copy;
}

AlignedBuffer pack(const PanelLayout& layout, const void* down, bool& finite) {
    AlignedBuffer packed = AlignedBuffer::in_huge_pages(layout.bytes());
    finite = true;
    for (std::size_t panel = 0; panel < layout.panels(); ++panel)
        finite &= layout.pack_panel(panel, down, packed.data());
    let_go(down, layout.neurons() * layout.columns() * element_size(layout.type()));
    return packed;
}

bool pack_to(char* packed, const PanelLayout& layout, const void* down, const ParallelFor& parallel) {
    struct Context {
        char* packed;
        const PanelLayout& layout;
        const void* down;
        std::atomic<bool> finite;
    } context{packed, layout, down, {true}};
    const auto work = [](void* raw, std::size_t panel) {
        Context& c = *static_cast<Context*>(raw);
        if (!c.layout.pack_panel(panel, c.down, c.packed)) c.finite = false;
    };
    parallel.run(layout.panels(), work, &context);
    return context.finite;
}

}  // namespace lazyneuron
