// Selection on every instruction set against the scalar one, and the scalar one against plain statements.
#include <cmath>
#include <limits>

#include "dispatch/instruction_sets.h"
#include "testing.h"

namespace lazyneuron {
namespace {

using testing::bits;
using testing::random_values;
using testing::same;
using testing::sizes;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kSubnormal = std::numeric_limits<float>::denorm_min();

struct Selection {
    std::int32_t count;
    std::vector<std::int32_t> index;
    std::vector<float> coefficient;
};

// The lists are as large as the interface demands and no larger, for the address sanitizer.
Selection select(const InstructionSet& set, const SelectArguments& arguments) {
    const std::size_t room = (arguments.neurons + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
    Selection out{0, std::vector<std::int32_t>(room), std::vector<float>(room)};
    out.count = set.kernels.select(arguments, out.index.data(), out.coefficient.data());
    return out;
}

const InstructionSet& scalar() { return *find_supported("scalar"); }

void check_equal(const Selection& got, const Selection& expected, float ulps, const std::string& context) {
    CHECK(got.count == expected.count, context);
    for (std::int32_t i = 0; i < std::min(got.count, expected.count); ++i) {
        CHECK(got.index[i] == expected.index[i], context);
        const float a = got.coefficient[i], b = expected.coefficient[i];
        CHECK(same(a, b) || std::fabs(a - b) <= ulps * std::ldexp(std::fabs(b), -23), context);
    }
}

// Exact activations: the same neurons and the same bits, with ties, thresholds, biases and misaligned rows.
void test_exact_activations(const InstructionSet& set) {
    for (const std::size_t n : sizes()) {
        for (const double density : {0.0, 0.5, 1.0}) {
            const std::vector<float> pre = random_values(n + 1, density, 1, 0.25f),
                                     bias = random_values(n + 1, 0.5, 2);
            const std::vector<float> scale = random_values(n, 0.5, 3);
            for (const Activation activation :
                 {Activation::kRelu, Activation::kRelu2, Activation::kIdentity}) {
                for (const float threshold : {0.0f, 0.5f}) {
                    for (const std::size_t keep : {std::size_t{1}, (n + 1) / 2, n}) {
                        for (const bool full : {false, true}) {
                            const SelectArguments a{pre.data() + 1,
                                                    full ? bias.data() + 1 : nullptr,
                                                    full ? scale.data() : nullptr,
                                                    n,
                                                    activation,
                                                    threshold,
                                                    keep};
                            check_equal(select(set, a), select(scalar(), a), 0.0f,
                                        std::string(set.name) + ", " + std::to_string(n) + " neurons, keep " +
                                            std::to_string(keep));
                        }
                    }
                }
            }
        }
    }
}

// The others: values within some ulp of the scalar ones, which have no FMA.
void test_smooth_activations(const InstructionSet& set) {
    for (const std::size_t n : sizes()) {
        const std::vector<float> pre = random_values(n, 0.5, 4);
        for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
            const SelectArguments a{pre.data(), nullptr, nullptr, n, activation, 0.0f, n};
            check_equal(select(set, a), select(scalar(), a), 24.0f, set.name);
        }
    }
}

// A NaN in any lane poisons the row; infinities, zeros and subnormals are numbers like others.
void test_special_values(const InstructionSet& set) {
    for (const std::size_t n : sizes()) {
        for (std::size_t position = 0; position < n; ++position) {
            std::vector<float> pre(n, -1.0f);
            pre[position] = kNan;
            const SelectArguments a{pre.data(), nullptr, nullptr, n, Activation::kRelu, 0.0f, 1};
            CHECK(select(set, a).count == kPoisoned, set.name);
            for (const float value : {kInfinity, kSubnormal, 1.0f}) {
                pre[position] = value;
                const Selection row = select(set, a);
                CHECK(row.count == 1 && row.index[0] == static_cast<std::int32_t>(position), set.name);
                CHECK(same(row.coefficient[0], value), set.name);
            }
            for (const float value : {0.0f, -0.0f, -kSubnormal, -kInfinity}) {
                pre[position] = value;
                CHECK(select(set, a).count == 0, set.name);
            }
        }
    }
}

// What comes after a row must neither be read as neurons nor poison it.
void test_tail_is_not_read(const InstructionSet& set) {
    for (const std::size_t n : sizes()) {
        std::vector<float> pre(n + 16, kNan);
        for (std::size_t i = 0; i < n; ++i) pre[i] = 1.0f;
        const SelectArguments a{pre.data(), nullptr, nullptr, n, Activation::kGelu, 0.0f, n};
        CHECK(select(set, a).count == static_cast<std::int32_t>(n), set.name);
    }
}

// Top-k stated plainly: neuron i is kept if fewer than k are larger, or equal and before it.
void test_top_k(const InstructionSet& set) {
    for (const std::size_t n : {std::size_t{1}, std::size_t{17}, std::size_t{300}}) {
        for (const float step : {0.0f, 0.5f, 4.0f}) {
            std::vector<float> pre = random_values(n, 0.8, 5, step);
            if (n > 4) pre[3] = kInfinity, pre[n - 1] = kSubnormal;
            for (std::size_t keep = 1; keep <= n; keep += 1 + keep / 2) {
                const SelectArguments a{pre.data(), nullptr, nullptr, n, Activation::kIdentity, 0.0f, keep};
                const Selection row = select(set, a);
                std::vector<std::int32_t> expected;
                for (std::size_t i = 0; i < n; ++i) {
                    std::size_t before = 0;
                    for (std::size_t j = 0; j < n; ++j) {
                        const float mine = std::fabs(pre[i]), other = std::fabs(pre[j]);
                        before += other > mine || (other == mine && j < i);
                    }
                    if (before < keep && pre[i] != 0.0f) expected.push_back(static_cast<std::int32_t>(i));
                }
                CHECK(row.count == static_cast<std::int32_t>(expected.size()), set.name);
                for (std::size_t i = 0; i < expected.size(); ++i)
                    CHECK(row.index[i] == expected[i], set.name);
            }
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
        test_exact_activations(set);
        test_smooth_activations(set);
        test_special_values(set);
        test_tail_is_not_read(set);
        test_top_k(set);
    }
    return testing::result();
}
