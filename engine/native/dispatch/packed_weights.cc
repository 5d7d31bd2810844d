#include "dispatch/packed_weights.h"

#include <algorithm>
#include <cstring>

namespace lazyneuron {
namespace {

// An exponent of ones means an infinity or a NaN. No early end, so that the loop is vectorised.
template <class Bits>
bool all_finite(const void* data, std::size_t count, Bits exponent) {
    bool finite = true;
    for (std::size_t i = 0; i < count; ++i) {
        Bits bits;
        std::memcpy(&bits, static_cast<const char*>(data) + i * sizeof bits, sizeof bits);
        finite &= static_cast<Bits>(bits & exponent) != exponent;
    }
    return finite;
}

}  // namespace

bool all_finite(const void* data, std::size_t count, WeightType type) {
    switch (type) {
        case WeightType::kFloat32:
            return all_finite<std::uint32_t>(data, count, 0x7F800000u);
        case WeightType::kFloat16:
            return all_finite<std::uint16_t>(data, count, 0x7C00u);
        case WeightType::kBFloat16:
            return all_finite<std::uint16_t>(data, count, 0x7F80u);
        case WeightType::kInt8:
            break;
    }
    return true;
}

std::size_t element_size(WeightType type) {
    switch (type) {
        case WeightType::kFloat32:
            return 4;
        case WeightType::kFloat16:
        case WeightType::kBFloat16:
            return 2;
        case WeightType::kInt8:
            break;
    }
    return 1;
}

PanelLayout::PanelLayout(std::size_t neurons, std::size_t columns, WeightType type)
    : neurons_(neurons), columns_(columns), type_(type) {
    while (panel_columns_ > kColumnGroup && neurons * panel_columns_ * element_size(type) > kPanelBytes) {
        panel_columns_ /= 2;
    }
}

std::size_t PanelLayout::columns(std::size_t panel) const {
    return std::min(panel_columns_, columns_ - first_column(panel));
}

std::size_t PanelLayout::width(std::size_t panel) const {
    return (columns(panel) + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
}

std::size_t PanelLayout::offset(std::size_t panel) const {
    return neurons_ * first_column(panel) * element_size(type_);
}

bool PanelLayout::pack_panel(std::size_t panel, const void* down, void* packed) const {
    const std::size_t size = element_size(type_);
    const std::size_t used = columns(panel) * size, stride = width(panel) * size;
    const char* source = static_cast<const char*>(down) + first_column(panel) * size;
    char* target = static_cast<char*>(packed) + offset(panel);
    bool finite = true;
    for (std::size_t f = 0; f < neurons_; ++f, source += columns_ * size, target += stride) {
        std::memcpy(target, source, used);
        std::memset(target + used, 0, stride - used);
        finite = finite && all_finite(target, columns(panel), type_);
    }
    return finite;
}

}  // namespace lazyneuron
