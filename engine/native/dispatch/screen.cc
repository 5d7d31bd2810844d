#include "dispatch/screen.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace lazyneuron {
namespace {

// Why the test is sound in float32 arithmetic. Let u = 2^-24, n the depth, and everything be in the units of
// kernels/screen.h. What the exact path computes, fl(x . w * scale + bias), may lie above the real value by
//  (a) gamma = (n + 8) u times sum |w_d x_d| <= |w'| (|x'| + |shift'|), in whatever order it adds up (the
//  last
//      rounding, of the bias's addition, cannot cross the threshold, which is a float itself);
//  (b) n * 2^-125 where products underflow, also when subnormals are flushed to zero.
// A row's z is computed with three roundings a value, so that it lies within 8 u |z| of the real one, or,
// where it underflows, within 2^-120 * inverse * the largest stretch. Its norms, sums of n squares, are
// within a factor 1 + n 2^-23. The test itself is four roundings of partial sums, none larger than
//     size (norm + residual) + |constant| inverse + spread norm + size residual;
// 2^-19 of each term is 16 times as much as they can amount to.
constexpr double kUnit = 0x1p-24;
constexpr double kTestSlack = 0x1p-19;
constexpr double kUnderflow = 0x1p-125;
// Neurons whose codes would be worth less or more than these are always candidates.
constexpr double kSmallestStep = 0x1p-60, kLargestStep = 0x1p100;
// Then (b), n 2^-125 inverse / step, is covered by spread (>= 2^-12, since a neuron's largest code is 126 or
// 127 and spread has 2^-19 of size) times this of each row's norm.
constexpr double kNormSlack = 0x1p-47;
constexpr double kCodeLimit = 127.0;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A float that is not below the value; positive ones stay clear of the subnormals, which may be flushed.
float round_up(double value) {
    const float nearest = static_cast<float>(value);
    float up = static_cast<double>(nearest) < value ? std::nextafterf(nearest, kInfinity) : nearest;
    if (up > 0.0f && up < FLT_MIN) up = FLT_MIN;
    return up;
}

// A fixed sequence (splitmix64): the draws depend on nothing but their position.
std::uint64_t hash(std::uint64_t position) {
    std::uint64_t z = (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
constexpr std::uint64_t kRowDraws = std::uint64_t{1} << 62;  // the neurons' begin at 0

double half_to_double(std::uint16_t half) {
    const int exponent = (half >> 10) & 31, fraction = half & 1023;
    const double sign = (half & 0x8000u) != 0 ? -1.0 : 1.0;
    if (exponent == 31) return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(fraction, -24);
    return sign * std::ldexp(fraction + 1024, exponent - 25);
}

// The upper half of a float.
float bfloat_to_float(std::uint16_t upper) {
    const std::uint32_t bits = static_cast<std::uint32_t>(upper) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

double element(const void* data, WeightType type, std::size_t i) {
    switch (type) {
        case WeightType::kFloat32:
            return static_cast<const float*>(data)[i];
        case WeightType::kFloat16:
            return half_to_double(static_cast<const std::uint16_t*>(data)[i]);
        case WeightType::kBFloat16:
            return bfloat_to_float(static_cast<const std::uint16_t*>(data)[i]);
        case WeightType::kInt8:
            break;
    }
    return static_cast<const std::int8_t*>(data)[i];
}

// What a value before the activation must exceed, rounded down: relu2 squares it.
double threshold_before_activation(const ScreenSource& source) {
    if (source.activation != Activation::kRelu2) return source.threshold;
    return std::sqrt(static_cast<double>(source.threshold)) * (1.0 - 0x1p-50);
}

}  // namespace

// Makes the neurons' side, one neuron after another.
class ScreenBuilder {
 public:
    ScreenBuilder(Screen& screen, const ScreenSource& source, int offset)
        : s_(screen),
          source_(source),
          offset_(offset),
          threshold_(threshold_before_activation(source)),
          weights_(source.depth) {
        allocate();
        set_coordinates();
        if (source.miss_probability > 0.0f) set_draws();
    }

    void build() {
        const std::size_t padded = s_.panels() * kScreenPanel;
        double largest = 0.0;
        for (std::size_t f = 0; f < padded; ++f) {
            if (f < source_.neurons) {
                largest = std::max(largest, build_neuron(f));
            } else {
                decide(f, false);
            }
        }
        s_.largest_norm_ = round_up(largest);
    }

 private:
    void allocate() {
        const std::size_t padded = s_.panels() * kScreenPanel;
        const std::size_t depth = s_.code_stride();
        const std::size_t codes = padded * s_.steps_ * kScreenStep;
        s_.memory_ =
            AlignedBuffer::in_huge_pages(codes + 4 * padded * sizeof(float) + 3 * depth * sizeof(float));
        std::memset(s_.memory_.data(), 0, s_.memory_.size());
        s_.codes_ = reinterpret_cast<std::int8_t*>(s_.memory_.data());
        s_.start_ = reinterpret_cast<std::int32_t*>(s_.memory_.data() + codes);
        s_.constant_ = reinterpret_cast<float*>(s_.start_ + padded);
        s_.spread_ = s_.constant_ + padded;
        s_.size_ = s_.spread_ + padded;
        if (source_.shift != nullptr) s_.shift_ = s_.size_ + padded;
        if (source_.scale != nullptr) s_.stretch_ = s_.size_ + padded + depth;
        if (source_.miss_probability > 0.0f) s_.draw_ = s_.size_ + padded + 2 * depth;
    }

    // x' = (x - shift) * stretch, with the float32 stretch taken as exact: any values are sound, so that ones
    // whose reciprocals would be no normal numbers are moved to where they are.
    void set_coordinates() {
        double shift_squares = 0.0, largest_stretch = 1.0;
        for (std::size_t d = 0; d < source_.depth; ++d) {
            double stretch = 1.0;
            if (source_.scale != nullptr) {
                const float size = std::min(std::max(std::fabs(source_.scale[d]), 0x1p-100f), 0x1p100f);
                s_.stretch_[d] = 1.0f / std::copysign(size, source_.scale[d]);
                stretch = s_.stretch_[d];
            }
            largest_stretch = std::max(largest_stretch, std::fabs(stretch));
            if (source_.shift != nullptr) {
                s_.shift_[d] = source_.shift[d];
                shift_squares += std::pow(source_.shift[d] * stretch, 2);
            }
        }
        s_.shift_norm_ = round_up(std::sqrt(shift_squares) * (1.0 + 1e-9));
        s_.underflow_ = std::sqrt(static_cast<double>(source_.depth)) * 0x1p-120 * largest_stretch;
    }

    // Stochastic rounding: errors of mean zero, each within an interval of one code. By Hoeffding each of the
    // two sums of errors exceeds c times the other factor's norm with probability at most 2 exp(-2 c^2).
    void set_draws() {
        s_.widest_ = round_up(std::sqrt(0.5 * std::log(4.0 / source_.miss_probability)));
        for (std::size_t d = 0; d < source_.depth; ++d) {
            s_.draw_[d] = static_cast<float>(hash(kRowDraws + d) >> 40) * 0x1p-24f;
        }
    }

    // A neuron whose fate does not depend on the row's codes.
    void decide(std::size_t f, bool candidate) {
        s_.constant_[f] = candidate ? kInfinity : -kInfinity;
        s_.spread_[f] = s_.size_[f] = 0.0f;
        s_.start_[f] = 0;
    }

    // Returns the norm that bounds the neuron's partial sums.
    double build_neuron(std::size_t f) {
        const double scale = source_.up_scale != nullptr ? source_.up_scale[f] : 1.0;
        const double bias = source_.up_bias != nullptr ? source_.up_bias[f] : 0.0;
        double largest = 0.0, squares = 0.0, moved = 0.0, moved_size = 0.0;
        for (std::size_t d = 0; d < source_.depth; ++d) {
            double w = element(source_.up, source_.type, f * source_.depth + d) * scale;
            if (s_.shift_ != nullptr) {
                moved += w * s_.shift_[d];
                moved_size += std::fabs(w * s_.shift_[d]);
            }
            if (s_.stretch_ != nullptr) w /= s_.stretch_[d];
            weights_[d] = w;
            largest = std::max(largest, std::isnan(w) ? HUGE_VAL : std::fabs(w));
            squares += w * w;
        }
        const double norm = std::sqrt(squares) * (1.0 + 1e-9);
        const double step = largest / (kCodeLimit - 0.01);
        if (largest == 0.0) {
            decide(f, !(bias <= threshold_));
        } else if (!(step >= kSmallestStep && step <= kLargestStep)) {
            decide(f, true);
        } else {
            const double error = 1e-9 * moved_size + 0x1p-45 * (std::fabs(bias) + threshold_);
            set_codes(f, step, norm / step, bias + moved - threshold_ + error);
        }
        return std::max(norm, scale != 0.0 ? norm / std::fabs(scale) : norm);
    }

    void set_codes(std::size_t f, double step, double norm, double constant) {
        double error_squares = 0.0, code_squares = 0.0;
        std::int32_t sum = 0;
        std::int8_t* codes = s_.codes_of(f);
        for (std::size_t d = 0; d < source_.depth; ++d) {
            const double exact = weights_[d] / step;
            const double code = s_.draw_ != nullptr ? std::floor(exact + draw(f, d)) : std::nearbyint(exact);
            codes[d / kScreenStep * kScreenStep * kScreenPanel + d % kScreenStep] =
                static_cast<std::int8_t>(code);
            sum += static_cast<std::int32_t>(code);
            error_squares += (exact - code) * (exact - code);
            code_squares += code * code;
        }
        double spread = std::sqrt(error_squares) * (1.0 + 1e-9) + 1e-9 * norm;
        if (s_.draw_ != nullptr) spread = std::min<double>(spread, s_.widest_ + 1e-9 * norm);
        const double size = std::sqrt(code_squares) * (1.0 + 1e-9);
        const double gamma = (static_cast<double>(source_.depth) + 8.0) * kUnit;
        constant /= step;
        if (s_.shift_norm_ > 0.0f) {  // the row's own part of (a) and (b) is in its norm
            constant +=
                gamma * norm * s_.shift_norm_ + static_cast<double>(source_.depth) * kUnderflow / step;
        }
        s_.start_[f] = -offset_ * sum;
        s_.constant_[f] = round_up(constant + kTestSlack * std::fabs(constant));
        s_.spread_[f] = round_up(spread + gamma * norm + kTestSlack * (spread + size));
        s_.size_[f] = round_up(size * (1.0 + 2.0 * kTestSlack));
    }

    double draw(std::size_t f, std::size_t d) const {
        return static_cast<double>(hash(f * source_.depth + d) >> 11) * 0x1p-53;
    }

    Screen& s_;
    const ScreenSource& source_;
    const int offset_;
    const double threshold_;
    std::vector<double> weights_;
};

Screen::Screen(const KernelSet& kernels, const ScreenSource& source)
    : kernels_(&kernels),
      neurons_(source.neurons),
      depth_(source.depth),
      steps_((source.depth + kScreenStep - 1) / kScreenStep),
      widest_(kInfinity) {
    ScreenBuilder(*this, source, kernels.row_code_offset()).build();
}

ScreenTerms Screen::terms() const {
    return {constant_, spread_,       size_,       shift_,  stretch_,
            draw_,     largest_norm_, shift_norm_, widest_, round_up(underflow_)};
}

void Screen::copy_codes(std::int8_t* codes) const {
    std::memset(codes, 0, neurons_ * code_stride());
    for (std::size_t f = 0; f < neurons_; ++f) {
        const std::int8_t* const first = codes_of(f);
        std::int8_t* const to = codes + f * code_stride();
        for (std::size_t step = 0; step < steps_; ++step) {
            std::memcpy(to + step * kScreenStep, first + step * kScreenStep * kScreenPanel, kScreenStep);
        }
    }
}

bool Screen::quantize(const float* x, std::uint8_t* codes, float& inverse, float& norm,
                      float& residual) const {
    const QuantizedRow row = kernels_->quantize({x, depth_, shift_, stretch_, draw_}, codes);
    const double n = static_cast<double>(depth_), factor = 1.0 + (n + 8.0) * 0x1p-23;
    const double z = std::sqrt(static_cast<double>(row.norm)) * factor;
    double error = std::sqrt(static_cast<double>(row.residual)) * factor;
    if (draw_ != nullptr) error = std::min<double>(error, widest_) + (z > 0.0 ? 0x1p-16 * std::sqrt(n) : 0.0);
    inverse = row.inverse;
    norm = z > 0.0 ? round_up(z + n * kNormSlack * row.inverse) : 0.0f;
    // Without a shift a row of zeros is exact, and need not make candidates of neurons without a bias.
    if (z > 0.0 || shift_ != nullptr) error += 8.0 * kUnit * z + underflow_ * row.inverse;
    residual = round_up(error);
    // No partial sum of any neuron overflows, in any order, if the product of norms is far from doing so.
    const double overflow = 0x1p125;
    return row.finite && z * largest_norm_ <= overflow * row.inverse &&
           static_cast<double>(shift_norm_) * largest_norm_ <= overflow;
}

void Screen::set_panel(std::size_t panel, ScreenArguments& a) const {
    const std::size_t first = panel * kScreenPanel;
    a.panel = codes_ + first * steps_ * kScreenStep;
    a.code_stride = code_stride();
    a.depth = steps_ * kScreenStep;
    a.start = start_ + first;
    a.constant = constant_ + first;
    a.spread = spread_ + first;
    a.size = size_ + first;
}

}  // namespace lazyneuron
