// One row of one panel: y = bias + sum of coefficient * weights over the kept neurons.
//
// Each column is one chain of additions in ascending order of the neurons, whatever the vector width or the
// batch, which is what makes a row's result independent of its surroundings. The accumulators of up to 64
// columns stay in registers; there are as many of them as an FMA's latency needs (4 cycles, one 512-bit or
// two 256-bit FMAs a cycle), and the loop's loads come from the level 2 cache, which is its bound.
//
// Rows marked dense are done in blocks instead: each weight is loaded once for all of them, so that the bound
// is the FMAs, even though some multiply by zero. Adding 0 * w changes no sum as long as w is finite, and the
// order is the same, so a row's result does not tell which way was taken.
#include "kernels/kernels.h"
#include "kernels/targets.h"
#include LAZYNEURON_SIMD_HEADER

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

std::uint64_t call_count = 0;

inline Float load_weight(const float* p) { return load(p); }
inline Float load_weight(const std::uint16_t* p) { return load_half(p); }
inline Float load_weight(const std::int8_t* p) { return load_int8(p); }

// The weights of a neuron some steps ahead: neurons are scattered, so the hardware's prefetcher cannot know.
constexpr std::size_t kAhead = 16;
constexpr std::size_t kCacheLine = 64;

template <std::size_t Vectors, class Weight>
inline void prefetch(const Weight* row) {
    const char* bytes = reinterpret_cast<const char*>(row);
    for (std::size_t b = 0; b < Vectors * kLanes * sizeof(Weight); b += kCacheLine) {
        __builtin_prefetch(bytes + b);
    }
}

// An underflow may leave -0, which 0 * w turns into 0 or does not: adding 0 makes it 0 in any case.
inline Float finished(Float sum) { return add(sum, broadcast(0.0f)); }

// What one row brings along.
struct Row {
    const std::int32_t* index;
    const float* coefficient;
    std::size_t count;
};

// Vectors is a constant so that `sum` becomes registers; the pragmas make the compiler unroll before it
// decides.
template <std::size_t Vectors, class Weight>
void accumulate_columns(const Weight* panel, std::size_t width, const Row& row, const float* bias, float* y) {
    Float sum[Vectors];
#pragma GCC unroll 16
    for (std::size_t v = 0; v < Vectors; ++v) sum[v] = bias ? load(bias + v * kLanes) : broadcast(0.0f);
    const auto weights = [&](std::size_t i) {
        return panel + static_cast<std::size_t>(row.index[i]) * width;
    };
    const auto step = [&](std::size_t i) {
        const Weight* w = weights(i);
        const Float c = broadcast(row.coefficient[i]);
#pragma GCC unroll 16
        for (std::size_t v = 0; v < Vectors; ++v)
            sum[v] = multiply_add(c, load_weight(w + v * kLanes), sum[v]);
    };
    std::size_t i = 0;
    for (; i + kAhead < row.count; ++i) {
        prefetch<Vectors>(weights(i + kAhead));
        step(i);
    }
    for (; i < row.count; ++i) step(i);
#pragma GCC unroll 16
    for (std::size_t v = 0; v < Vectors; ++v) store(y + v * kLanes, finished(sum[v]));
}

constexpr std::size_t kGroupVectors = kColumnGroup / kLanes;

// Passes of as many columns as there are accumulators, then one of the columns that are left.
template <std::size_t Vectors, class Weight>
void accumulate_row(const Weight* panel, std::size_t width, const Row& row, const float* bias, float* y,
                    std::size_t column = 0) {
    constexpr std::size_t kColumns = Vectors * kLanes;
    for (; column + kColumns <= width; column += kColumns) {
        accumulate_columns<Vectors>(panel + column, width, row, bias ? bias + column : nullptr, y + column);
    }
    if constexpr (Vectors > kGroupVectors) {
        if (column < width) accumulate_row<Vectors - kGroupVectors>(panel, width, row, bias, y, column);
    }
}

// R rows, for as many columns as Vectors are. The sums become registers as above.
template <std::size_t R, std::size_t Vectors, class Weight>
void dense_columns(const Weight* w, const AccumulateArguments& a, const float* const (&rows)[R],
                   const float* bias, float* const (&y)[R]) {
    Float sum[R][Vectors];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v)
            sum[r][v] = bias ? load(bias + v * kLanes) : broadcast(0.0f);
    }
    for (std::size_t f = 0; f < a.neurons; ++f, w += a.width) {
        Float weights[Vectors];
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v) weights[v] = load_weight(w + v * kLanes);
#pragma GCC unroll 8
        for (std::size_t r = 0; r < R; ++r) {
            const Float c = broadcast(rows[r][f]);
#pragma GCC unroll 8
            for (std::size_t v = 0; v < Vectors; ++v) sum[r][v] = multiply_add(c, weights[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v) store(y[r] + v * kLanes, finished(sum[r][v]));
    }
}

// Passes of as many columns as a block has, then of half as many, down to what a panel is a multiple of.
template <std::size_t R, std::size_t Vectors, class Weight>
void dense_panel(const AccumulateArguments& a, const float* const (&rows)[R], const float* bias,
                 float* const (&y)[R], std::size_t column = 0) {
    constexpr std::size_t kColumns = Vectors * kLanes;
    for (; column + kColumns <= a.width; column += kColumns) {
        float* target[R];
        for (std::size_t r = 0; r < R; ++r) target[r] = y[r] + column;
        dense_columns<R, Vectors>(static_cast<const Weight*>(a.panel) + column, a, rows,
                                  bias ? bias + column : nullptr, target);
    }
    if constexpr (kColumns > kColumnGroup) {
        if (column < a.width) dense_panel<R, Vectors / 2, Weight>(a, rows, bias, y, column);
    }
}

// The first `count` of `numbers`, which is R or fewer. Not inlined: the loop over lists keeps its registers.
template <std::size_t R, class Weight>
__attribute__((noinline)) void dense_rows(const AccumulateArguments& a, const std::size_t* numbers,
                                          std::size_t count, const float* bias) {
    if constexpr (R > 1) {
        if (count < R) return dense_rows<R - 1, Weight>(a, numbers, count, bias);
    }
    const bool padded = a.columns < a.width;
    alignas(64) float padded_y[R][kWidestPanel];
    const float* rows[R];
    float* y[R];
    for (std::size_t r = 0; r < R; ++r) {
        rows[r] = a.coefficient + numbers[r] * a.list_stride;
        y[r] = padded ? padded_y[r] : a.y + numbers[r] * a.y_stride;
    }
    dense_panel<R, kDenseVectors, Weight>(a, rows, bias, y);
    if (!padded) return;
    for (std::size_t r = 0; r < R; ++r) {
        __builtin_memcpy(a.y + numbers[r] * a.y_stride, padded_y[r], a.columns * sizeof(float));
    }
}

inline void fill(float* y, std::size_t columns, float value) {
    for (std::size_t c = 0; c < columns; ++c) y[c] = value;
}

template <class Weight>
void accumulate(const AccumulateArguments& a) {
    constexpr std::size_t kMost = kAccumulators > kGroupVectors ? kAccumulators : kGroupVectors;
    __atomic_fetch_add(&call_count, 1, __ATOMIC_RELAXED);
    const Weight* panel = static_cast<const Weight*>(a.panel);
    // The last panel's padding is computed too, but neither read from the bias nor written to y.
    const bool padded = a.columns < a.width;
    alignas(64) float padded_bias[kWidestPanel] = {};
    alignas(64) float padded_y[kWidestPanel];
    if (padded && a.bias) __builtin_memcpy(padded_bias, a.bias, a.columns * sizeof(float));
    const float* bias = padded ? padded_bias : a.bias;
    std::size_t dense[kDenseRows], waiting = 0;
    for (std::size_t r = 0; r < a.rows; ++r) {
        float* y = a.y + r * a.y_stride;
        if (a.counts[r] == kDense) {
            dense[waiting++] = r;
            if (waiting < kDenseRows) continue;
            dense_rows<kDenseRows, Weight>(a, dense, waiting, bias);
            waiting = 0;
            continue;
        }
        if (a.counts[r] < 0) {
            fill(y, a.columns, a.counts[r] == kSkipped ? 0.0f : __builtin_nanf(""));
            continue;
        }
        const Row row{a.index + r * a.list_stride, a.coefficient + r * a.list_stride,
                      static_cast<std::size_t>(a.counts[r])};
        accumulate_row<kMost>(panel, a.width, row, bias, padded ? padded_y : y);
        if (padded) __builtin_memcpy(y, padded_y, a.columns * sizeof(float));
    }
    if (waiting != 0) dense_rows<kDenseRows, Weight>(a, dense, waiting, bias);
}

}  // namespace

void accumulate_float32(const AccumulateArguments& a) { accumulate<float>(a); }
void accumulate_float16(const AccumulateArguments& a) { accumulate<std::uint16_t>(a); }
void accumulate_int8(const AccumulateArguments& a) { accumulate<std::int8_t>(a); }
std::uint64_t calls() { return __atomic_load_n(&call_count, __ATOMIC_RELAXED); }

}  // namespace lazyneuron::LAZYNEURON_TARGET
