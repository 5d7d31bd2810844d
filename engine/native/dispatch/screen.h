// The certified screen's side of the weights: codes and bounds of every neuron, made once. See
// kernels/screen.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/aligned_buffer.h"
#include "dispatch/instruction_sets.h"
#include "kernels/screen.h"

namespace lazyneuron {

// What a screen is made of. Row-major weights as they were given.
struct ScreenSource {
    const void* up;  // [neurons][depth]
    WeightType type;
    std::size_t neurons, depth;
    const float* up_scale;   // [neurons] or null
    const float* up_bias;    // [neurons] or null
    const float* shift;      // [depth] or null
    const float* scale;      // [depth] or null
    Activation activation;   // relu or relu2
    float threshold;         // on the value, >= 0
    float miss_probability;  // 0: the deterministic bound
};

// What another processor needs to make the same test: see kernels/screen.h. Its row codes have no offset.
struct ScreenTerms {
    const float *constant, *spread, *size;   // [neurons]
    const float *shift, *stretch, *draw;     // [depth], null where not used
    float largest_norm, shift_norm, widest;  // as in Screen
    float underflow;
};

class Screen {
 public:
    Screen() = default;
    Screen(const KernelSet& kernels, const ScreenSource& source);

    std::size_t panels() const { return (neurons_ + kScreenPanel - 1) / kScreenPanel; }
    std::size_t neurons() const { return neurons_; }
    std::size_t depth() const { return depth_; }
    // Bytes between rows of codes: whole vectors, whatever the instruction set.
    std::size_t code_stride() const { return (depth_ + 63) / 64 * 64; }

    ScreenTerms terms() const;
    // The neurons' codes, a row of code_stride() bytes each, zeros after the depth.
    void copy_codes(std::int8_t* codes) const;

    // The codes and terms of one row. False if no bound holds for it: it has a value that is not finite, or
    // some sum could overflow.
    bool quantize(const float* x, std::uint8_t* codes, float& inverse, float& norm, float& residual) const;

    // Fills in the panel's share of the arguments.
    void set_panel(std::size_t panel, ScreenArguments& arguments) const;

    void run(const ScreenArguments& arguments) const { kernels_->screen(arguments); }

 private:
    friend class ScreenBuilder;
    // Where a neuron's first codes lie; the next ones are kScreenPanel * kScreenStep bytes further.
    std::int8_t* codes_of(std::size_t f) const {
        return codes_ + f / kScreenPanel * kScreenPanel * steps_ * kScreenStep +
               f % kScreenPanel * kScreenStep;
    }

    const KernelSet* kernels_ = nullptr;
    std::size_t neurons_ = 0, depth_ = 0, steps_ = 0;
    AlignedBuffer memory_;
    std::int8_t* codes_ = nullptr;
    std::int32_t* start_ = nullptr;
    float *constant_ = nullptr, *spread_ = nullptr, *size_ = nullptr;
    float *shift_ = nullptr, *stretch_ = nullptr, *draw_ = nullptr;  // null: not used
    float largest_norm_ = 0.0f;  // of a neuron, in the screen's coordinates
    float shift_norm_ = 0.0f;    // |shift * stretch|
    float widest_ = 0.0f;        // Hoeffding's c, or infinity
    double underflow_ = 0.0;     // times a row's inverse: what its z may lack where they underflow
};

}  // namespace lazyneuron
