// The down projection, laid out for the accumulating kernels.
//
// The matrix [neurons][columns] is cut over its columns into panels. All panels but the last are
// `panel_columns` wide (64, 32 or 16); the last is as wide as what is left, rounded up to kColumnGroup,
// padded with zeros. A panel is [neurons][its width], contiguous, in the type the weights came in: float32,
// float16 and int8 are converted when they are loaded, since it is their bytes that the kernel waits for.
//
//     columns:   0 ......... 63 | 64 ........ 127 | 128 .. 130, 13 zeros
//     memory:    panel 0: neuron 0, neuron 1, ...  | panel 1: neuron 0, ... | panel 2: neuron 0, ...
//
// Why: a core works on one panel at a time. What it needs of a neuron is then contiguous (whole cache lines,
// no partial ones), and the whole panel stays in its level 2 cache while the rows of a tile go by. The width
// is the largest whose panel fits kPanelBytes; narrower panels read the rows' lists more often.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace lazyneuron {

constexpr std::size_t kPanelBytes = 896 * 1024;  // of a level 2 cache of 1 MiB (Zen 4) to 2 MiB (Intel)

std::size_t element_size(WeightType type);

// Neither an infinity nor a NaN is among them.
bool all_finite(const void* data, std::size_t count, WeightType type);

// Sizes only; says where everything is.
class PanelLayout {
 public:
    PanelLayout() = default;
    PanelLayout(std::size_t neurons, std::size_t columns, WeightType type);

    std::size_t panels() const { return (columns_ + panel_columns_ - 1) / panel_columns_; }
    std::size_t first_column(std::size_t panel) const { return panel * panel_columns_; }
    std::size_t columns(std::size_t panel) const;  // without padding
    std::size_t width(std::size_t panel) const;    // with padding
    std::size_t offset(std::size_t panel) const;   // in bytes
    std::size_t bytes(std::size_t panel) const { return neurons_ * width(panel) * element_size(type_); }
    std::size_t bytes() const { return offset(panels() - 1) + bytes(panels() - 1); }
    std::size_t neurons() const { return neurons_; }
    std::size_t columns() const { return columns_; }
    WeightType type() const { return type_; }

    // Copies one panel of row-major `down` to its place in `packed`. Returns whether all of it is finite.
    bool pack_panel(std::size_t panel, const void* down, void* packed) const;

 private:
    std::size_t neurons_ = 0, columns_ = 0, panel_columns_ = kWidestPanel;
    WeightType type_ = WeightType::kFloat32;
};

}  // namespace lazyneuron
