// What each of the GPU's kernels does, in plain C++ and program by program, so that a wrong grid shows: a
// program that is missing leaves its part unwritten. The kernels themselves are engine/gpu/kernels/*.py.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "cuda/flags.h"
#include "kernels/kernels.h"
#include "tests/cuda_stand_in.h"
#include "tests/cuda_weights.h"

namespace lazyneuron::testing {
namespace {

using namespace cuda;

constexpr std::size_t kSegments = 8;

float activate(float x, std::size_t activation) {
    const double v = x;
    switch (static_cast<Activation>(activation)) {
        case Activation::kRelu:
            return x < 0.0f ? 0.0f : x;
        case Activation::kRelu2:
            return x < 0.0f ? 0.0f : x * x;
        case Activation::kGelu:
            return static_cast<float>(v * 0.5 * std::erfc(-v / std::sqrt(2.0)));
        case Activation::kGeluTanh:
            return static_cast<float>(
                v / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / M_PI) * (v + 0.044715 * v * v * v))));
        case Activation::kSilu:
            return static_cast<float>(v / (1.0 + std::exp(-v)));
        case Activation::kIdentity:
            break;
    }
    return x;
}

std::int32_t row_state(const KernelCall& call, std::size_t budget, std::size_t rows, std::size_t row,
                       std::size_t flags) {
    if ((flags & kBudget) == 0) return 0;
    const float share = call.array<float>(budget, rows)[row];
    return share > 0.0f ? 0 : share == share ? kSkipped : kPoisoned;
}

// An optional array: null where its flag is not set.
template <class T>
T* given(const KernelCall& call, std::size_t parameter, std::size_t count, bool flag) {
    return flag ? call.array<T>(parameter, count) : nullptr;
}

void quantize_row(const KernelCall& c, std::size_t r) {
    const std::size_t rows = c.size(10), depth = c.size(11), stride = c.size(12), flags = c.size(13);
    float* const inverse = c.array<float>(6, rows) + r;
    float* const norm = c.array<float>(7, rows) + r;
    float* const residual = c.array<float>(8, rows) + r;
    std::int32_t* const dense = c.array<std::int32_t>(9, rows) + r;
    if (row_state(c, 1, rows, r, flags) < 0) {
        *inverse = 0.0f;
        return;
    }
    const float* const x = c.array<float>(0, rows * depth) + r * depth;
    const float* const shift = given<float>(c, 2, depth, flags & kShift);
    const float* const stretch = given<float>(c, 3, depth, flags & kStretch);
    const float* const draw = given<float>(c, 4, depth, flags & kDraw);
    std::int8_t* const codes = c.array<std::int8_t>(5, rows * stride) + r * stride;
    const double largest_norm = c.real(14), shift_norm = c.real(15), widest = c.real(16),
                 underflow = c.real(17);
    std::vector<float> z(depth);
    float largest = 0.0f;
    bool finite = true;
    for (std::size_t d = 0; d < depth; ++d) {
        z[d] = (x[d] - (shift ? shift[d] : 0.0f)) * (stretch ? stretch[d] : 1.0f);
        finite = finite && std::isfinite(z[d]);
        largest = std::max(largest, std::fabs(z[d]));
    }
    *inverse = finite && largest > 0.0f ? std::min(126.99f / largest, 0x1p120f) : 1.0f;
    double squares = 0.0, errors = 0.0;
    std::fill_n(codes, stride, std::int8_t{0});
    for (std::size_t d = 0; d < depth && finite; ++d) {
        const float v = z[d] * *inverse;
        const float code = draw ? std::floor(v + draw[d]) : std::nearbyintf(v);
        codes[d] = static_cast<std::int8_t>(code);
        squares += static_cast<double>(v) * v;
        errors += static_cast<double>(v - code) * (v - code);
    }
    const double n = static_cast<double>(depth), factor = 1.0 + (n + 8.0) * 0x1p-23;
    const double size = std::sqrt(squares) * factor;
    double error = std::sqrt(errors) * factor;
    if (draw) error = std::min(error, widest) + (size > 0.0 ? 0x1p-16 * std::sqrt(n) : 0.0);
    if (size > 0.0 || shift) error += 0x1p-21 * size + underflow * *inverse;
    *norm = static_cast<float>((size + n * 0x1p-47 * *inverse) * (1.0 + 0x1p-20));
    *residual = static_cast<float>(error * (1.0 + 0x1p-20));
    *dense = !(finite && size * largest_norm <= 0x1p125 * *inverse && shift_norm * largest_norm <= 0x1p125);
}

void screen_tile(const KernelCall& c, std::size_t row_tile, std::size_t neuron_tile) {
    const std::size_t rows = c.size(10), neurons = c.size(11), stride = c.size(12);
    if (stride % 64 != 0) throw std::runtime_error("codes' stride is no multiple of 64");
    const auto tile_rows = static_cast<std::size_t>(c.spec.block_rows);
    const auto tile_neurons = static_cast<std::size_t>(c.spec.block_neurons);
    const std::int8_t* const codes = c.array<std::int8_t>(0, rows * stride);
    const std::int8_t* const other = c.array<std::int8_t>(1, neurons * stride);
    const float* const constant = c.array<float>(2, neurons);
    const float* const spread = c.array<float>(3, neurons);
    const float* const size = c.array<float>(4, neurons);
    const float* const inverse = c.array<float>(5, rows);
    const float* const norm = c.array<float>(6, rows);
    const float* const residual = c.array<float>(7, rows);
    const std::int32_t* const dense = c.array<std::int32_t>(8, rows);
    std::int8_t* const mask = c.array<std::int8_t>(9, rows * neurons);
    for (std::size_t r = row_tile * tile_rows; r < std::min(rows, (row_tile + 1) * tile_rows); ++r) {
        if (inverse[r] == 0.0f) continue;
        for (std::size_t f = neuron_tile * tile_neurons;
             f < std::min(neurons, (neuron_tile + 1) * tile_neurons); ++f) {
            std::int32_t sum = 0;
            for (std::size_t d = 0; d < stride; ++d) sum += codes[r * stride + d] * other[f * stride + d];
            const float upper = static_cast<float>(sum) + constant[f] * inverse[r] + spread[f] * norm[r] +
                                size[f] * residual[r];
            mask[r * neurons + f] = !(upper <= 0.0f && dense[r] == 0);
        }
    }
}

void list_masked_row(const KernelCall& c, std::size_t r) {
    const std::size_t rows = c.size(4), neurons = c.size(5);
    const std::int8_t* const mask = c.array<std::int8_t>(0, rows * neurons) + r * neurons;
    std::int32_t* const index = c.array<std::int32_t>(2, rows * neurons) + r * neurons;
    std::int32_t* const found = c.array<std::int32_t>(3, rows) + r;
    *found = row_state(c, 1, rows, r, c.size(6));
    if (*found < 0) return;
    for (std::size_t f = 0; f < neurons; ++f) {
        if (mask[f] != 0) index[(*found)++] = static_cast<std::int32_t>(f);
    }
}

void list_scored_row(const KernelCall& c, std::size_t r) {
    const std::size_t rows = c.size(6), neurons = c.size(7), depth = c.size(8), activation = c.size(9);
    const std::size_t flags = c.size(11);
    const bool gate_mode = flags & kGateMode;
    const float threshold = c.real(10);
    const float* const scores = c.array<float>(0, rows * neurons) + r * neurons;
    const float* const x = c.array<float>(1, rows * depth) + r * depth;
    std::int32_t* const index = c.array<std::int32_t>(3, rows * neurons) + r * neurons;
    float* factor = given<float>(c, 4, rows * neurons, gate_mode);
    std::int32_t* const found = c.array<std::int32_t>(5, rows) + r;
    *found = row_state(c, 2, rows, r, flags);
    if (*found < 0) return;
    bool poisoned = false;
    for (std::size_t f = 0; f < neurons; ++f) {
        const float value = gate_mode ? activate(scores[f], activation) : scores[f];
        poisoned = poisoned || std::isnan(value);
        const bool by_value = !gate_mode || activation <= static_cast<std::size_t>(Activation::kRelu2);
        if (!((by_value ? value : std::fabs(value)) > threshold)) continue;
        index[*found] = static_cast<std::int32_t>(f);
        if (gate_mode) factor[r * neurons + static_cast<std::size_t>(*found)] = value;
        ++*found;
    }
    if (*found == 0) poisoned = poisoned || std::any_of(x, x + depth, [](float v) { return std::isnan(v); });
    if (poisoned) *found = kPoisoned;
}

void project_row(const KernelCall& c, std::size_t r, std::size_t split) {
    const std::size_t rows = c.size(7), neurons = c.size(8), depth = c.size(9), flags = c.size(10);
    const auto strip = static_cast<std::size_t>(c.spec.block_neurons);
    const std::int32_t found = c.array<std::int32_t>(5, rows)[r];
    const auto count = static_cast<std::size_t>(std::max(found, 0));
    if (split * strip >= count) return;
    const float* const x = c.array<float>(0, rows * depth) + r * depth;
    const Weights weights(c, 1, neurons * depth);
    const float* const scale = given<float>(c, 2, neurons, flags & kScale);
    const float* const bias = given<float>(c, 3, neurons, flags & kBias);
    const std::int32_t* const index = c.array<std::int32_t>(4, rows * neurons) + r * neurons;
    float* const values = c.array<float>(6, rows * neurons) + r * neurons;
    for (std::size_t start = split * strip; start < count; start += c.grid[1] * strip) {
        for (std::size_t i = start; i < std::min(count, start + strip); ++i) {
            const auto f = static_cast<std::size_t>(index[i]);
            float sum = 0.0f;
            for (std::size_t d = 0; d < depth; ++d) sum += x[d] * weights[f * depth + d];
            if (scale) sum *= scale[f];
            values[i] = bias ? sum + bias[f] : sum;
        }
    }
}

void select_row(const KernelCall& c, std::size_t r) {
    const std::size_t rows = c.size(12), neurons = c.size(13), top_k = c.size(14), activation = c.size(15);
    const float threshold = c.real(16);
    const std::size_t flags = c.size(17);
    const float* const values = c.array<float>(0, rows * neurons) + r * neurons;
    const float* factor = given<float>(c, 1, rows * neurons, flags & kFactor);
    const std::int32_t* index = given<std::int32_t>(c, 2, rows * neurons, flags & kIndex);
    const float* const bias = given<float>(c, 4, neurons, flags & kBias);
    const float* const scale = given<float>(c, 5, neurons, flags & kDownScale);
    std::int32_t* const kept = c.array<std::int32_t>(7, rows * neurons) + r * neurons;
    float* const coefficient = c.array<float>(8, rows * neurons) + r * neurons;
    std::int32_t* const count = c.array<std::int32_t>(9, rows) + r;
    std::int32_t* const active = c.array<std::int32_t>(10, rows) + r;
    std::int32_t entries = row_state(c, 6, rows, r, flags);
    if (entries == 0) entries = static_cast<std::int32_t>(neurons);
    if (index != nullptr) {
        entries = c.array<std::int32_t>(3, rows)[r];
        c.array<std::int32_t>(11, rows)[r] = std::max(entries, 0);
    }
    *count = entries;
    *active = 0;
    if (entries < 0) return;
    std::size_t limit = top_k != 0 ? top_k : neurons;
    if (flags & kBudget) {
        const float wanted = std::ceil(c.array<float>(6, rows)[r] * static_cast<float>(limit));
        limit = wanted >= static_cast<float>(neurons) ? neurons : static_cast<std::size_t>(wanted);
    }
    struct Entry {
        std::int32_t neuron;
        float value;
    };
    std::vector<Entry> all;
    for (std::size_t i = 0; i < static_cast<std::size_t>(entries); ++i) {
        const std::int32_t f = index ? index[r * neurons + i] : static_cast<std::int32_t>(i);
        float value = values[i] + (bias ? bias[f] : 0.0f);
        value = factor ? value * activate(factor[r * neurons + i], activation) : activate(value, activation);
        if (std::isnan(value)) *count = kPoisoned;
        if (((flags & kByMagnitude) ? std::fabs(value) : value) > threshold) all.push_back({f, value});
    }
    if (*count == kPoisoned) return;
    std::stable_sort(all.begin(), all.end(),
                     [](const Entry& a, const Entry& b) { return std::fabs(a.value) > std::fabs(b.value); });
    all.resize(std::min(all.size(), limit));
    std::sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.neuron < b.neuron; });
    for (std::size_t i = 0; i < all.size(); ++i) {
        kept[i] = all[i].neuron;
        coefficient[i] = scale ? all[i].value * scale[all[i].neuron] : all[i].value;
    }
    *count = *active = static_cast<std::int32_t>(all.size());
}

float finish(float sum, const float* bias, std::size_t column, std::int32_t count) {
    if (count == kSkipped) return 0.0f;
    if (count == kPoisoned) return std::numeric_limits<float>::quiet_NaN();
    return sum + (bias ? bias[column] : 0.0f);
}

void down_part(const KernelCall& c, std::size_t r, std::size_t column_tile, std::size_t split) {
    const std::size_t rows = c.size(6), neurons = c.size(7), columns = c.size(8), splits = c.size(9);
    const std::size_t flags = c.size(10);
    const bool partial = flags & kPartial;
    if (splits != c.grid[2] || splits != (partial ? kSegments : 1)) throw std::runtime_error("splits");
    const auto block = static_cast<std::size_t>(c.spec.block_neurons);
    const auto tile = static_cast<std::size_t>(c.spec.block_columns);
    const std::int32_t* const kept = c.array<std::int32_t>(0, rows * neurons) + r * neurons;
    const float* const coefficient = c.array<float>(1, rows * neurons) + r * neurons;
    const std::int32_t count = c.array<std::int32_t>(2, rows)[r];
    const Weights weights(c, 3, neurons * columns);
    const float* const bias = given<float>(c, 4, columns, flags & kDownBias);
    float* const y = c.array<float>(5, (partial ? kSegments : 1) * rows * columns);
    const auto entries = static_cast<std::size_t>(std::max(count, 0));
    const std::size_t segment = ((entries + block - 1) / block + kSegments - 1) / kSegments * block;
    for (std::size_t column = column_tile * tile; column < std::min(columns, (column_tile + 1) * tile);
         ++column) {
        float total = 0.0f;
        for (std::size_t s = 0; s < kSegments; ++s) {
            if (partial && s != split) continue;
            float sum = 0.0f;
            for (std::size_t i = s * segment; i < std::min(entries, (s + 1) * segment); ++i) {
                sum += coefficient[i] * weights[static_cast<std::size_t>(kept[i]) * columns + column];
            }
            total += sum;
        }
        if (partial) {
            y[(split * rows + r) * columns + column] = total;
        } else {
            y[r * columns + column] = finish(total, bias, column, count);
        }
    }
}

void reduce_row(const KernelCall& c, std::size_t r, std::size_t column_tile) {
    const std::size_t rows = c.size(4), columns = c.size(5), splits = c.size(6), flags = c.size(7);
    const auto tile = static_cast<std::size_t>(c.spec.block_columns);
    const float* const partial = c.array<float>(0, splits * rows * columns);
    const std::int32_t count = c.array<std::int32_t>(1, rows)[r];
    const float* const bias = given<float>(c, 2, columns, flags & kDownBias);
    float* const y = c.array<float>(3, rows * columns);
    for (std::size_t column = column_tile * tile; column < std::min(columns, (column_tile + 1) * tile);
         ++column) {
        float total = 0.0f;
        for (std::size_t s = 0; s < splits; ++s) total += partial[(s * rows + r) * columns + column];
        y[r * columns + column] = finish(total, bias, column, count);
    }
}

void union_tile(const KernelCall& c, std::size_t tile) {
    const std::size_t rows = c.size(6), neurons = c.size(7);
    const auto block = static_cast<std::size_t>(c.spec.block_rows);
    const std::size_t tiles = (rows + block - 1) / block, first = tile * block,
                      last = std::min(rows, first + block);
    const std::int32_t* const kept = c.array<std::int32_t>(0, rows * neurons);
    const float* const coefficient = c.array<float>(1, rows * neurons);
    const std::int32_t* const counts = c.array<std::int32_t>(2, rows);
    std::int32_t* const index = c.array<std::int32_t>(3, tiles * neurons) + tile * neurons;
    std::int32_t* const count = c.array<std::int32_t>(4, tiles) + tile;
    float* const spread = c.array<float>(5, rows * neurons);
    std::vector<std::vector<float>> value(last - first, std::vector<float>(neurons, 0.0f));
    for (std::size_t r = first; r < last; ++r) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(std::max(counts[r], 0)); ++i) {
            value[r - first][static_cast<std::size_t>(kept[r * neurons + i])] = coefficient[r * neurons + i];
        }
    }
    *count = 0;
    for (std::size_t f = 0; f < neurons; ++f) {
        if (std::all_of(value.begin(), value.end(), [f](const auto& row) { return row[f] == 0.0f; }))
            continue;
        index[*count] = static_cast<std::int32_t>(f);
        for (std::size_t r = first; r < last; ++r) {
            spread[r * neurons + static_cast<std::size_t>(*count)] = value[r - first][f];
        }
        ++*count;
    }
}

void down_tile_part(const KernelCall& c, std::size_t tile, std::size_t column_tile) {
    const std::size_t rows = c.size(7), neurons = c.size(8), columns = c.size(9), flags = c.size(10);
    const auto block = static_cast<std::size_t>(c.spec.block_rows);
    const auto width = static_cast<std::size_t>(c.spec.block_columns);
    const std::size_t tiles = (rows + block - 1) / block;
    const std::int32_t* const index = c.array<std::int32_t>(0, tiles * neurons) + tile * neurons;
    const auto count = static_cast<std::size_t>(c.array<std::int32_t>(1, tiles)[tile]);
    const float* const spread = c.array<float>(2, rows * neurons);
    const std::int32_t* const counts = c.array<std::int32_t>(3, rows);
    const Weights weights(c, 4, neurons * columns);
    const float* const bias = given<float>(c, 5, columns, flags & kDownBias);
    float* const y = c.array<float>(6, rows * columns);
    for (std::size_t r = tile * block; r < std::min(rows, (tile + 1) * block); ++r) {
        for (std::size_t column = column_tile * width; column < std::min(columns, (column_tile + 1) * width);
             ++column) {
            float sum = 0.0f;
            for (std::size_t i = 0; i < count; ++i) {
                sum +=
                    spread[r * neurons + i] * weights[static_cast<std::size_t>(index[i]) * columns + column];
            }
            y[r * columns + column] = finish(sum, bias, column, counts[r]);
        }
    }
}

void run_program(const KernelCall& call, std::size_t x, std::size_t y, std::size_t z) {
    const std::string& name = call.spec.entry;
    if (name == "quantize_rows") return quantize_row(call, x);
    if (name == "screen") return screen_tile(call, x, y);
    if (name == "list_masked") return list_masked_row(call, x);
    if (name == "list_scored") return list_scored_row(call, x);
    if (name == "project") return project_row(call, x, y);
    if (name == "select") return select_row(call, x);
    if (name == "down") return down_part(call, x, y, z);
    if (name == "reduce_down") return reduce_row(call, x, y);
    if (name == "union_lists") return union_tile(call, x);
    if (name == "down_tile") return down_tile_part(call, x, y);
    throw std::runtime_error("a kernel without a meaning");
}

}  // namespace

void run_kernel(const KernelCall& call) {
    for (std::size_t z = 0; z < call.grid[2]; ++z) {
        for (std::size_t y = 0; y < call.grid[1]; ++y) {
            for (std::size_t x = 0; x < call.grid[0]; ++x) run_program(call, x, y, z);
        }
    }
}

}  // namespace lazyneuron::testing
