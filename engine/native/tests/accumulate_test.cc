// Accumulation on every instruction set against double sums, and what it must leave alone.
#include <cmath>

#include "dispatch/instruction_sets.h"
#include "testing.h"

namespace lazyneuron {
namespace {

using testing::random_values;
using testing::same;

constexpr std::size_t kNeurons = 40;
constexpr float kUntouched = 12345.0f;

// float16 to float by its definition.
float half_value(std::uint16_t half) {
    const int exponent = (half >> 10) & 31, fraction = half & 1023;
    const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

// A panel in one of the types, with its values as floats.
struct Panel {
    std::vector<float> values;
    std::vector<char> bytes;
};

Panel make_panel(WeightType type, std::size_t width) {
    Panel panel;
    std::mt19937 random(7);
    for (std::size_t i = 0; i < kNeurons * width; ++i) {
        char raw[4] = {};
        std::size_t size = 4;
        float value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 512.0f;
        if (type == WeightType::kFloat16) {
            const auto half = static_cast<std::uint16_t>(0x3000u + random() % 0x1000u + (random() % 2 << 15));
            size = 2, value = half_value(half);
            std::memcpy(raw, &half, 2);
        } else if (type == WeightType::kInt8) {
            const auto number = static_cast<std::int8_t>(static_cast<int>(random() % 256) - 128);
            size = 1, value = number;
            std::memcpy(raw, &number, 1);
        } else {
            std::memcpy(raw, &value, 4);
        }
        panel.values.push_back(value);
        panel.bytes.insert(panel.bytes.end(), raw, raw + size);
    }
    return panel;
}

struct Case {
    WeightType type;
    std::size_t width, columns, count;
    bool bias;
};

// Three rows: one of `count` neurons, one poisoned, one skipped. y and bias are misaligned by a float.
void test_case(const InstructionSet& set, const Case& c) {
    const std::string context = std::string(set.name) + ", type " + std::to_string(static_cast<int>(c.type)) +
                                ", width " + std::to_string(c.width) + ", columns " +
                                std::to_string(c.columns) + ", count " + std::to_string(c.count);
    const Panel panel = make_panel(c.type, c.width);
    std::vector<std::int32_t> index;
    for (std::size_t i = 0; i < c.count; ++i)
        index.push_back(static_cast<std::int32_t>(kNeurons - c.count + i));
    const std::vector<float> coefficient = random_values(c.count, 0.5, 8),
                             bias = random_values(c.columns + 1, 0.5, 9);
    const std::size_t stride = c.columns + 3;
    std::vector<float> y(1 + 3 * stride, kUntouched);
    const std::int32_t counts[] = {static_cast<std::int32_t>(c.count), kPoisoned, kSkipped};
    AccumulateArguments a{};
    a.panel = panel.bytes.data();
    a.width = c.width;
    a.bias = c.bias ? bias.data() + 1 : nullptr;
    a.columns = c.columns;
    a.neurons = kNeurons;
    a.rows = 3;
    a.counts = counts;
    a.index = index.data();
    a.coefficient = coefficient.data();
    a.list_stride = 0;  // the other rows have no lists
    a.y = y.data() + 1;
    a.y_stride = stride;
    set.kernels.accumulate[static_cast<int>(c.type)](a);
    CHECK(y[0] == kUntouched, context);
    for (std::size_t column = 0; column < stride; ++column) {
        const float *row = y.data() + 1 + column, poisoned = row[stride], skipped = row[2 * stride];
        if (column >= c.columns) {
            CHECK(*row == kUntouched && poisoned == kUntouched && skipped == kUntouched, context);
            continue;
        }
        double sum = c.bias ? bias[column + 1] : 0.0, magnitude = std::fabs(sum);
        for (std::size_t i = 0; i < c.count; ++i) {
            const double term =
                static_cast<double>(coefficient[i]) * panel.values[index[i] * c.width + column];
            sum += term;
            magnitude += std::fabs(term);
        }
        CHECK(std::fabs(*row - sum) <= std::ldexp(magnitude * static_cast<double>(c.count + 1), -23),
              context);
        CHECK(poisoned != poisoned, context);
        CHECK(same(skipped, 0.0f), context);
    }
}

void test_shapes(const InstructionSet& set) {
    for (const WeightType type : {WeightType::kFloat32, WeightType::kFloat16, WeightType::kInt8}) {
        for (std::size_t width = kColumnGroup; width <= kWidestPanel; width += kColumnGroup) {
            for (std::size_t padding = 0; padding < kColumnGroup; ++padding) {
                for (const std::size_t count : {0, 1, 2, 15, 16, 17, 18, 40}) {
                    test_case(set, {type, width, width - padding, count, padding % 2 == 0});
                }
            }
        }
    }
}

// `rows` rows, each with a different part of the neurons: as lists, then as dense ones among other rows.
// Equal to the bit, even where a sum underflows to -0.
void test_dense_case(const InstructionSet& set, const Case& c, std::size_t rows) {
    const std::string context = std::string(set.name) + ", type " + std::to_string(static_cast<int>(c.type)) +
                                ", width " + std::to_string(c.width) + ", columns " +
                                std::to_string(c.columns) + ", dense rows " + std::to_string(rows);
    const Panel panel = make_panel(c.type, c.width);
    const std::vector<float> bias = random_values(c.columns, 0.5, 9), drawn = random_values(kNeurons, 0.5, 8);
    std::vector<std::int32_t> index(rows * kNeurons), counts(rows), marks(rows);
    std::vector<float> list(rows * kNeurons), dense(rows * kNeurons);
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t f = 0; f < kNeurons; ++f) {
            if ((f * 7 + r) % 5 < r % 4) continue;
            const float coefficient = r % 7 == 6 ? -1e-45f : drawn[(f + r) % kNeurons];
            const std::size_t at = r * kNeurons + static_cast<std::size_t>(counts[r]++);
            index[at] = static_cast<std::int32_t>(f);
            list[at] = dense[r * kNeurons + f] = coefficient;
        }
        marks[r] = r % 9 == 4 ? kSkipped : r % 9 == 7 ? kPoisoned : kDense;
        if (marks[r] != kDense) counts[r] = marks[r];
    }
    const std::size_t stride = c.columns + 3;
    std::vector<float> expected(rows * stride, kUntouched), y = expected;
    AccumulateArguments a{};
    a.panel = panel.bytes.data();
    a.width = c.width;
    a.bias = c.bias ? bias.data() : nullptr;
    a.columns = c.columns;
    a.neurons = kNeurons;
    a.rows = rows;
    a.counts = counts.data();
    a.index = index.data();
    a.coefficient = list.data();
    a.list_stride = kNeurons;
    a.y = expected.data();
    a.y_stride = stride;
    set.kernels.accumulate[static_cast<int>(c.type)](a);
    a.counts = marks.data();
    a.index = nullptr;
    a.coefficient = dense.data();
    a.y = y.data();
    set.kernels.accumulate[static_cast<int>(c.type)](a);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(same(y[i], expected[i]), context);
}

void test_dense_rows(const InstructionSet& set) {
    for (const WeightType type : {WeightType::kFloat32, WeightType::kFloat16, WeightType::kInt8}) {
        for (std::size_t width = kColumnGroup; width <= kWidestPanel; width += kColumnGroup) {
            for (const std::size_t padding : {0, 1, 15}) {
                for (const std::size_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 25}) {
                    test_dense_case(set, {type, width, width - padding, 0, padding != 1}, rows);
                }
            }
        }
    }
}

// Every float16 there is.
void test_half_is_exact(const InstructionSet& set) {
    std::vector<std::uint16_t> panel(1 << 16);
    for (std::size_t i = 0; i < panel.size(); ++i) panel[i] = static_cast<std::uint16_t>(i);
    const float one = 1.0f;
    const std::int32_t count = 1;
    for (std::int32_t neuron = 0; neuron < 1 << 12; ++neuron) {
        float y[kColumnGroup];
        AccumulateArguments a{};
        a.panel = panel.data();
        a.width = a.columns = kColumnGroup;
        a.rows = 1;
        a.counts = &count;
        a.index = &neuron;
        a.coefficient = &one;
        a.y = y;
        set.kernels.accumulate[static_cast<int>(WeightType::kFloat16)](a);
        for (std::size_t c = 0; c < kColumnGroup; ++c) {
            const float expected = half_value(panel[static_cast<std::size_t>(neuron) * kColumnGroup + c]);
            CHECK(same(y[c], expected + 0.0f), set.name);
        }
    }
}

}  // namespace
}  // namespace lazyneuron

int main() {
    using namespace lazyneuron;
    for (const InstructionSet& set : instruction_sets()) {
        std::printf("%s%s\n", set.name, set.supported ? "" : ": skipped, this machine lacks it");
        if (!set.supported) continue;
        const std::uint64_t before = set.kernels.calls();
        test_shapes(set);
        test_dense_rows(set);
        test_half_is_exact(set);
        CHECK(set.kernels.calls() > before, set.name);
    }
    return testing::result();
}
