// Codes of a row, and the test of a row's codes against a panel of neurons. See kernels/screen.h.
#include "kernels/screen.h"

#include "kernels/kernels.h"
#include "kernels/targets.h"
#include LAZYNEURON_SIMD_HEADER

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

// z is kept just below the largest code, so that rounding and a draw below one cannot exceed it.
constexpr float kLargest = static_cast<float>(kRowCodeLimit) - 0.01f;
constexpr float kLargestInverse = 1.329227996e36f;  // 2^120: rows of tiny values keep smaller codes

// A row's values in the screen's coordinates, a vector at a time.
class Values {
 public:
    explicit Values(const QuantizeArguments& a) : a_(a) {}
    Float at(std::size_t d) const {
        Float v = load(a_.x + d);
        if (a_.shift != nullptr) v = subtract(v, load(a_.shift + d));
        return a_.stretch != nullptr ? multiply(v, load(a_.stretch + d)) : v;
    }
    Float at(std::size_t d, std::size_t rest) const {
        Float v = load_partial(a_.x + d, rest);
        if (a_.shift != nullptr) v = subtract(v, load_partial(a_.shift + d, rest));
        return a_.stretch != nullptr ? multiply(v, load_partial(a_.stretch + d, rest)) : v;
    }

 private:
    const QuantizeArguments& a_;
};

// Calls body(d, values, draws) over the row; what lies past its end is zero.
template <class Body>
inline void for_values(const QuantizeArguments& a, const Body& body) {
    const Values values(a);
    const Float zero = broadcast(0.0f);
    std::size_t d = 0;
    for (; d + kLanes <= a.depth; d += kLanes) body(d, values.at(d), a.draw ? load(a.draw + d) : zero);
    if (const std::size_t rest = a.depth - d) {
        body(d, values.at(d, rest), a.draw ? load_partial(a.draw + d, rest) : zero);
    }
}

inline float largest_lane(Float v) {
    float lanes[kLanes], largest = 0.0f;
    store(lanes, v);
    for (const float lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
}

inline float sum_of_lanes(Float v) {
    float lanes[kLanes], sum = 0.0f;
    store(lanes, v);
    for (const float lane : lanes) sum += lane;
    return sum;
}

inline Int floor_to_int(Float v) {
    const Int nearest = round_to_int(v);
    const Float above = to_float(nearest);
    return round_to_int(choose(greater(above, v), subtract(above, broadcast(1.0f)), above));
}

// What is still to be prefetched. The loop waits for the multipliers; beside them two lines a step are free.
struct Fetch {
    const char *at, *end;
};
constexpr std::size_t kCacheLine = 64, kFetchedPerStep = 2 * kCacheLine;

// A block of R rows by V vectors of neurons; the sums stay in registers, the pragmas make the compiler unroll
// before it decides. What follows the loop is short beside it and goes through memory.
template <std::size_t R, std::size_t V>
void screen_block(const ScreenArguments& a, std::size_t row, std::size_t neuron, Fetch& fetch,
                  std::uint64_t* mask) {
    Int sum[R][V];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v) sum[r][v] = load_int(a.start + neuron + v * kLanes);
    }
    const std::int8_t* w = a.panel + neuron * kScreenStep;
    const std::uint8_t* x = a.codes + row * a.code_stride;
    const char* next = fetch.at != fetch.end ? fetch.at : reinterpret_cast<const char*>(x);
    const std::size_t ahead = fetch.at != fetch.end ? kFetchedPerStep : 0;
    for (std::size_t d = 0; d < a.depth; d += kScreenStep) {
        Codes neurons[V];
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v) neurons[v] = load_codes(w + v * kLanes * kScreenStep);
#pragma GCC unroll 8
        for (std::size_t r = 0; r < R; ++r) {
            const Codes codes = broadcast_codes(x + r * a.code_stride);
#pragma GCC unroll 8
            for (std::size_t v = 0; v < V; ++v) sum[r][v] = dot_codes(sum[r][v], codes, neurons[v]);
        }
        for (std::size_t b = 0; b < kFetchedPerStep; b += kCacheLine) __builtin_prefetch(next + b, 0, 2);
        next += ahead;
        w += kScreenPanel * kScreenStep;
        x += kScreenStep;
    }
    fetch.at = ahead != 0 && next < fetch.end ? next : fetch.end;
    alignas(64) std::int32_t sums[R * V * kLanes];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v) store_int(sums + (r * V + v) * kLanes, sum[r][v]);
    }
    const Float zero = broadcast(0.0f);
    for (std::size_t r = 0; r < R; ++r) {
        const Float inverse = broadcast(a.terms.inverse[row + r]), norm = broadcast(a.terms.norm[row + r]);
        const Float residual = broadcast(a.terms.residual[row + r]);
        for (std::size_t v = 0; v < V; ++v) {
            const std::size_t n = neuron + v * kLanes;
            Float upper = to_float(load_int(sums + (r * V + v) * kLanes));
            upper = multiply_add(load(a.constant + n), inverse, upper);
            upper = multiply_add(load(a.spread + n), norm, upper);
            upper = multiply_add(load(a.size + n), residual, upper);
            // A NaN (infinite terms of both signs) proves nothing, so it does not skip.
            mask[r] |= lane_bits(either(greater(upper, zero), is_nan(upper))) << n;
        }
    }
}

// As many vectors of neurons as keep to the accumulators of a full block: with few rows a step of the panel
// is then read in one go, as the hardware foresees it.
template <std::size_t R>
constexpr std::size_t vectors_for() {
    std::size_t vectors = kScreenVectors;
    while (2 * vectors * R <= kScreenRows * kScreenVectors && 2 * vectors * kLanes <= kScreenPanel)
        vectors *= 2;
    return vectors;
}

template <std::size_t R>
void screen_rows(const ScreenArguments& a, std::size_t row, Fetch& fetch) {
    constexpr std::size_t kVectors = vectors_for<R>(), kNeurons = kVectors * kLanes;
    std::uint64_t mask[R] = {};
    for (std::size_t n = 0; n < kScreenPanel; n += kNeurons)
        screen_block<R, kVectors>(a, row, n, fetch, mask);
    for (std::size_t r = 0; r < R; ++r) a.mask[(row + r) * a.mask_stride] = mask[r];
}

// The rows that are left: fewer than a block has.
template <std::size_t R>
void screen_rest(const ScreenArguments& a, std::size_t row, Fetch& fetch) {
    if constexpr (R > 0) {
        if (a.rows - row == R) return screen_rows<R>(a, row, fetch);
        screen_rest<R - 1>(a, row, fetch);
    }
}

}  // namespace

int row_code_offset() { return kRowCodeOffset; }

QuantizedRow quantize(const QuantizeArguments& a, std::uint8_t* codes) {
    Float largest = broadcast(0.0f);
    Mask strange = no_lanes();
    for_values(a, [&](std::size_t, Float v, Float) {
        largest = maximum(largest, magnitude(v));
        strange = either(strange, is_nan(subtract(v, v)));  // infinity less itself is a NaN
    });
    QuantizedRow row{1.0f, 0.0f, 0.0f, !any(strange)};
    const float size = row.finite ? largest_lane(largest) : 0.0f;
    if (size > 0.0f) {
        row.inverse = kLargest / size;
        if (row.inverse > kLargestInverse) row.inverse = kLargestInverse;
    }
    const Float inverse = broadcast(row.finite ? row.inverse : 0.0f);
    const Int offset = broadcast_int(kRowCodeOffset);
    Float norm = broadcast(0.0f), residual = broadcast(0.0f);
    for_values(a, [&](std::size_t d, Float v, Float draw) {
        const Float z = row.finite ? multiply(v, inverse) : broadcast(0.0f);
        const Int code = a.draw != nullptr ? floor_to_int(add(z, draw)) : round_to_int(z);
        const Float error = subtract(z, to_float(code));
        norm = multiply_add(z, z, norm);
        residual = multiply_add(error, error, residual);
        store_codes(codes + d, add_int(code, offset));
    });
    row.norm = sum_of_lanes(norm);
    row.residual = sum_of_lanes(residual);
    return row;
}

void screen(const ScreenArguments& a) {
    // A block narrower than the panel reads it with gaps; reading it whole at first brings it sooner.
    if constexpr (kScreenVectors * kLanes < kScreenPanel) {
        const volatile std::int8_t* const panel = a.panel;
        for (std::size_t b = 0; b < a.depth * kScreenPanel; b += kCacheLine) static_cast<void>(panel[b]);
    }
    Fetch fetch{a.fetch, a.fetch != nullptr ? a.fetch + a.fetch_bytes : nullptr};
    std::size_t row = 0;
    for (; row + kScreenRows <= a.rows; row += kScreenRows) screen_rows<kScreenRows>(a, row, fetch);
    screen_rest<kScreenRows - 1>(a, row, fetch);
}

std::int32_t list_mask(const std::uint64_t* mask, std::size_t words, std::int32_t first,
                       std::int32_t* index) {
    std::size_t written = 0;
    for (std::size_t word = 0; word < words; ++word) {
        written +=
            list_bits(mask[word], first + static_cast<std::int32_t>(word * kScreenPanel), index + written);
    }
    return static_cast<std::int32_t>(written);
}

}  // namespace lazyneuron::LAZYNEURON_TARGET
