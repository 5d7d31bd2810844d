// Exact values of chosen neurons. See kernels/project.h.
#include "kernels/project.h"

#include "kernels/activations.h"
#include "kernels/targets.h"

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

inline Float load_weights(const float* p) { return load(p); }
inline Float load_weights(const std::uint16_t* p) { return load_half(p); }
inline Float load_weights(const std::int8_t* p) { return load_int8(p); }

// The last weights of a neuron, fewer than a vector holds.
template <class Weight>
inline Float load_weights(const Weight* p, std::size_t n) {
    if constexpr (sizeof(Weight) == sizeof(float)) return load_partial(p, n);
    Weight lanes[kLanes] = {};
    for (std::size_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load_weights(lanes);
}

// Neurons whose products with a row are computed together: as many chains as an FMA's latency needs, and one
// load of the row for all of them.
constexpr std::size_t kTogether = 4;
constexpr std::size_t kUnroll = 4;

// R rows by kTogether neurons.
template <std::size_t R, class Weight>
inline void dot_block(const float* const (&x)[R], const Weight* const (&w)[kTogether], std::size_t depth,
                      float (&out)[R][kTogether]) {
    Float sum[R][kTogether];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (std::size_t n = 0; n < kTogether; ++n) sum[r][n] = broadcast(0.0f);
    }
    std::size_t d = 0;
    for (; d + kLanes <= depth; d += kLanes) {
        Float row[R];
#pragma GCC unroll 4
        for (std::size_t r = 0; r < R; ++r) row[r] = load(x[r] + d);
#pragma GCC unroll 4
        for (std::size_t n = 0; n < kTogether; ++n) {
            const Float weights = load_weights(w[n] + d);
#pragma GCC unroll 4
            for (std::size_t r = 0; r < R; ++r) sum[r][n] = multiply_add(weights, row[r], sum[r][n]);
        }
    }
    if (const std::size_t rest = depth - d) {
        Float row[R];
#pragma GCC unroll 4
        for (std::size_t r = 0; r < R; ++r) row[r] = load_partial(x[r] + d, rest);
#pragma GCC unroll 4
        for (std::size_t n = 0; n < kTogether; ++n) {
            const Float weights = load_weights(w[n] + d, rest);
#pragma GCC unroll 4
            for (std::size_t r = 0; r < R; ++r) sum[r][n] = multiply_add(weights, row[r], sum[r][n]);
        }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) sum_lanes(sum[r], out[r]);
}

// A neuron's value from its dot product.
inline float value_of(const ProjectArguments& a, std::size_t neuron, float sum) {
    if (a.scale != nullptr) sum *= a.scale[neuron];
    return a.bias != nullptr ? sum + a.bias[neuron] : sum;
}

// Pairs of a row and a neuron, computed together.
template <class Weight>
struct Group {
    const float* x[kTogether];
    const Weight* w[kTogether];
    std::size_t neuron[kTogether];
    float* value[kTogether];
    std::size_t count = 0;

    void add(const ProjectArguments& a, const float* row, std::int32_t index, float* to) {
        x[count] = row;
        neuron[count] = static_cast<std::size_t>(index);
        w[count] = static_cast<const Weight*>(a.weights) + neuron[count] * a.depth;
        value[count++] = to;
    }
};

template <bool OneRow, class Weight>
inline void dot_group(const Group<Weight>& group, std::size_t depth, float (&out)[kTogether]) {
    const float *x0 = group.x[0], *x1 = group.x[1], *x2 = group.x[2], *x3 = group.x[3];
    const Weight *w0 = group.w[0], *w1 = group.w[1], *w2 = group.w[2], *w3 = group.w[3];
    Float sum[kTogether] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
    const auto step = [&](std::size_t d) {
        const Float row = load(x0 + d);
        sum[0] = multiply_add(load_weights(w0 + d), row, sum[0]);
        sum[1] = multiply_add(load_weights(w1 + d), OneRow ? row : load(x1 + d), sum[1]);
        sum[2] = multiply_add(load_weights(w2 + d), OneRow ? row : load(x2 + d), sum[2]);
        sum[3] = multiply_add(load_weights(w3 + d), OneRow ? row : load(x3 + d), sum[3]);
    };
    // Few turns, so that the processor foresees the last one and goes on to the next group.
    std::size_t d = 0;
    for (; d + kUnroll * kLanes <= depth; d += kUnroll * kLanes) {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kUnroll; ++i) step(d + i * kLanes);
    }
    for (; d + kLanes <= depth; d += kLanes) step(d);
    if (const std::size_t rest = depth - d) {
#pragma GCC unroll 4
        for (std::size_t n = 0; n < kTogether; ++n) {
            sum[n] =
                multiply_add(load_weights(group.w[n] + d, rest), load_partial(group.x[n] + d, rest), sum[n]);
        }
    }
    sum_lanes(sum, out);
}

template <class Weight>
inline void finish_group(const ProjectArguments& a, Group<Weight>& group) {
    if (group.count == 0) return;
    for (std::size_t n = group.count; n < kTogether; ++n) {  // the first pair again
        group.x[n] = group.x[0];
        group.w[n] = group.w[0];
    }
    float sums[kTogether];
    if (group.x[0] == group.x[1] && group.x[0] == group.x[2] && group.x[0] == group.x[3]) {
        dot_group<true>(group, a.depth, sums);
    } else {
        dot_group<false>(group, a.depth, sums);
    }
    for (std::size_t n = 0; n < group.count; ++n) *group.value[n] = value_of(a, group.neuron[n], sums[n]);
    group.count = 0;
}

// Lists of rows one after another, in groups; what one row's list leaves over is grouped with the next one's,
// for alone it would wait for the latency of too few chains. (Prefetching the next group's weights was tried:
// it takes more of the load ports than it saves in latency.)
template <class Weight>
void project_lists(const ProjectArguments& a, std::size_t first_row) {
    Group<Weight> group;
    for (std::size_t r = first_row; r < a.count; ++r) {
        const auto row = static_cast<std::size_t>(a.rows[r]);
        const std::int32_t* const bounds = a.bounds + row * a.bounds_stride;
        const std::int32_t* const index = a.index + row * a.list_stride;
        float* const value = a.value + row * a.list_stride;
        for (std::int32_t i = bounds[0]; i < bounds[1]; ++i) {
            group.add(a, a.x + row * a.depth, index[i], value + i);
            if (group.count == kTogether) finish_group(a, group);
        }
    }
    finish_group(a, group);
}

// Rows by the block's neurons, all of them: then each row takes what its list has. Neurons go in chunks, so
// that what is computed waits on the stack.
constexpr std::size_t kChunk = 128;

template <std::size_t R, class Weight>
void project_dense(const ProjectArguments& a, std::size_t first_row) {
    const float* x[R];
    std::size_t position[R];
    for (std::size_t r = 0; r < R; ++r) {
        const auto row = static_cast<std::size_t>(a.rows[first_row + r]);
        x[r] = a.x + row * a.depth;
        position[r] = static_cast<std::size_t>(a.bounds[row * a.bounds_stride]);
    }
    float sums[R][kChunk];
    for (std::size_t begin = a.first; begin < a.last; begin += kChunk) {
        const std::size_t end = a.last - begin < kChunk ? a.last : begin + kChunk;
        for (std::size_t f = begin; f < end; f += kTogether) {
            const Weight* w[kTogether];
            float out[R][kTogether];
            for (std::size_t n = 0; n < kTogether; ++n) {  // past the end: the last one again
                w[n] = static_cast<const Weight*>(a.weights) + (f + n < end ? f + n : end - 1) * a.depth;
            }
            dot_block<R>(x, w, a.depth, out);
            for (std::size_t r = 0; r < R; ++r) {
                __builtin_memcpy(sums[r] + (f - begin), out[r], sizeof out[r]);
            }
        }
        for (std::size_t r = 0; r < R; ++r) {
            const auto row = static_cast<std::size_t>(a.rows[first_row + r]);
            const auto last = static_cast<std::size_t>(a.bounds[row * a.bounds_stride + 1]);
            const std::int32_t* index = a.index + row * a.list_stride;
            float* value = a.value + row * a.list_stride;
            for (; position[r] < last; ++position[r]) {
                const auto neuron = static_cast<std::size_t>(index[position[r]]);
                if (neuron >= end) break;
                value[position[r]] = value_of(a, neuron, sums[r][neuron - begin]);
            }
        }
    }
}

// Above this share of candidates a block of all neurons is quicker than lists: it loads a weight once for
// kDotRows rows, and its loads are then no bound.
constexpr std::size_t kDenseShare = 3;  // a third

// The rows that are left: fewer than a block has. One alone shares no loads, so that its list is as quick.
template <std::size_t R, class Weight>
void project_rest(const ProjectArguments& a, std::size_t first_row) {
    if constexpr (R > 1) {
        if (a.count - first_row == R) return project_dense<R, Weight>(a, first_row);
        return project_rest<R - 1, Weight>(a, first_row);
    }
    project_lists<Weight>(a, first_row);
}

template <class Weight>
void project(const ProjectArguments& a) {
    std::size_t candidates = 0;
    for (std::size_t r = 0; r < a.count; ++r) {
        const std::int32_t* bounds = a.bounds + static_cast<std::size_t>(a.rows[r]) * a.bounds_stride;
        candidates += static_cast<std::size_t>(bounds[1] - bounds[0]);
    }
    std::size_t r = 0;
    if (candidates * kDenseShare > a.count * (a.last - a.first)) {
        for (; r + kDotRows <= a.count; r += kDotRows) project_dense<kDotRows, Weight>(a, r);
        return project_rest<kDotRows - 1, Weight>(a, r);
    }
    project_lists<Weight>(a, r);
}

template <class Act>
void multiply_by(const float* gate, float* value, std::size_t count) {
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        store(value + i, multiply(Act::apply(load(gate + i)), load(value + i)));
    }
    if (const std::size_t rest = count - i) {
        float lanes[kLanes];
        store(lanes, multiply(Act::apply(load_partial(gate + i, rest)), load_partial(value + i, rest)));
        __builtin_memcpy(value + i, lanes, rest * sizeof(float));
    }
}

}  // namespace

void project_float32(const ProjectArguments& a) { project<float>(a); }
void project_float16(const ProjectArguments& a) { project<std::uint16_t>(a); }
void project_int8(const ProjectArguments& a) { project<std::int8_t>(a); }

void multiply_by_gate(Activation activation, const float* gate, float* value, std::size_t count) {
    switch (activation) {
        case Activation::kRelu:
            return multiply_by<Relu>(gate, value, count);
        case Activation::kRelu2:
            return multiply_by<Relu2>(gate, value, count);
        case Activation::kGelu:
            return multiply_by<Gelu>(gate, value, count);
        case Activation::kGeluTanh:
            return multiply_by<GeluTanh>(gate, value, count);
        case Activation::kSilu:
            return multiply_by<Silu>(gate, value, count);
        case Activation::kIdentity:
            break;
    }
    multiply_by<Identity>(gate, value, count);
}

std::int32_t compact_above(const float* scores, std::size_t count, float threshold, std::int32_t* index) {
    const Float limit = broadcast(threshold);
    const Int step = broadcast_int(static_cast<std::int32_t>(kLanes));
    float values[kLanes];
    Int number = lane_numbers();
    Mask nan = no_lanes();
    std::size_t written = 0, f = 0;
    for (; f + kLanes <= count; f += kLanes, number = add_int(number, step)) {
        const Float score = load(scores + f);
        nan = either(nan, is_nan(score));
        written += compress(greater(score, limit), score, number, values, index + written);
    }
    if (const std::size_t rest = count - f) {
        const Float score = load_partial(scores + f, rest);
        nan = either(nan, is_nan(score));
        written +=
            compress(both(first_lanes(rest), greater(score, limit)), score, number, values, index + written);
    }
    return any(nan) ? kPoisoned : static_cast<std::int32_t>(written);
}

}  // namespace lazyneuron::LAZYNEURON_TARGET
