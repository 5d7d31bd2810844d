// SparseMLP below ONNX Runtime: every instruction set's screen misses nothing, reads and writes stay in
// bounds (each array has a heap block of its own, for the sanitizers), rows do not depend on the batch, and
// no call allocates.
#include "dispatch/sparse_mlp.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>

#include "tests/testing.h"

using namespace lazyneuron;
using namespace lazyneuron::testing;

static std::atomic<std::size_t> allocations{0};

// Counts what the operator allocates; aligned new is what AlignedBuffer uses.
void* operator new(std::size_t size, std::align_val_t alignment) {
    ++allocations;
    const auto unit = static_cast<std::size_t>(alignment);
    if (void* memory = std::aligned_alloc(unit, (size + unit - 1) / unit * unit)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

struct Serial final : ParallelFor {
    void run(std::size_t total, Work work, void* context) const override {
        for (std::size_t i = 0; i < total; ++i) work(context, i);
    }
};

// Multiples of an eighth: sums of their products are exact in float32, so that the expected neurons are too.
struct Problem {
    Problem(const KernelSet& set, std::size_t rows, std::size_t depth, std::size_t neurons, double share)
        : kernels(set),
          row_count(rows),
          layout(neurons, 5, WeightType::kFloat32),
          x(random_values(rows * depth, 0.5, 1, 0.125f)),
          up(random_values(neurons * depth, 0.5, 2, 0.125f)),
          bias(random_values(neurons, share, 3, 0.125f)),
          packed(layout.bytes()) {
        for (float& b : bias) b *= static_cast<float>(depth);  // from almost none to almost all active
        const std::vector<float> down = random_values(neurons * 5, 0.5, 4);
        for (std::size_t p = 0; p < layout.panels(); ++p) layout.pack_panel(p, down.data(), packed.data());
        screen = Screen(kernels, {up.data(), WeightType::kFloat32, neurons, depth, nullptr, bias.data(),
                                  nullptr, nullptr, Activation::kRelu, 0.0f, 0.0f});
    }

    struct Answer {
        std::vector<float> y;
        std::vector<std::int32_t> active, candidates;
    };

    Answer answer(std::size_t count) const {
        return {std::vector<float>(count * 5, -1.0f), std::vector<std::int32_t>(count, -1),
                std::vector<std::int32_t>(count, -1)};
    }

    void run(Answer& out, std::size_t first) const {
        SparseMlpTensors t{};
        t.rows = out.active.size();
        t.depth = screen.depth();
        t.x = x.data() + first * t.depth;
        t.up.data = up.data();
        t.up_bias = bias.data();
        t.screen = &screen;
        t.layout = layout;
        t.packed = packed.data();
        t.finite = true;
        t.y = out.y.data();
        t.active = out.active.data();
        t.candidates = out.candidates.data();
        const ScratchPool::Lease scratch(*pool, sparse_mlp_scratch_bytes(options, t));
        sparse_mlp(kernels, options, t, scratch.data(), Serial());
    }

    std::int32_t expected_active(std::size_t row) const {
        std::int32_t count = 0;
        const std::size_t depth = screen.depth();
        for (std::size_t f = 0; f < layout.neurons(); ++f) {
            double sum = bias[f];
            for (std::size_t d = 0; d < depth; ++d) {
                sum += static_cast<double>(x[row * depth + d]) * static_cast<double>(up[f * depth + d]);
            }
            count += sum > 0.0;
        }
        return count;
    }

    const KernelSet& kernels;
    std::size_t row_count;
    PanelLayout layout;
    std::vector<float> x, up, bias;
    AlignedBuffer packed;
    Screen screen;
    SparseMlpOptions options;
    std::shared_ptr<ScratchPool> pool = ScratchPool::shared();
};

void test_size(const InstructionSet& set, std::size_t rows, std::size_t depth, std::size_t neurons,
               double share) {
    const std::string context = std::string(set.name) + ", " + std::to_string(rows) + " rows, D " +
                                std::to_string(depth) + ", F " + std::to_string(neurons);
    const Problem problem(set.kernels, rows, depth, neurons, share);
    Problem::Answer all = problem.answer(problem.row_count);
    problem.run(all, 0);
    for (std::size_t r = 0; r < problem.row_count; ++r) {
        CHECK(all.active[r] == problem.expected_active(r), context);
        CHECK(all.candidates[r] >= all.active[r], context);
        CHECK(all.candidates[r] <= static_cast<std::int32_t>(neurons), context);
        Problem::Answer alone = problem.answer(1);
        problem.run(alone, r);
        CHECK(alone.active[0] == all.active[r] && alone.candidates[0] == all.candidates[r], context);
        for (std::size_t c = 0; c < 5; ++c) CHECK(same(alone.y[c], all.y[r * 5 + c]), context);
    }
}

void test_no_allocation_after_the_first_call() {
    const Problem problem(best_instruction_set().kernels, 40, 64, 300, 0.3);
    Problem::Answer out = problem.answer(40);
    problem.run(out, 0);
    const std::size_t before = allocations;
    for (int i = 0; i < 10; ++i) problem.run(out, 0);
    const std::size_t after = allocations;  // read before CHECK makes its message
    CHECK(after == before, std::to_string(after - before) + " allocations in later calls");
}

}  // namespace

int main() {
    for (const InstructionSet& set : instruction_sets()) {
        if (!set.supported) continue;
        for (const std::size_t size : sizes()) {
            test_size(set, 13, size, 70, 0.2);
            test_size(set, 13, 20, size, 0.9);
        }
        // Few enough rows for one tile but enough to fetch weights ahead; several tiles and blocks of
        // neurons.
        test_size(set, 40, 257, 600, 0.5);
        test_size(set, 205, 257, 1400, 0.1);
    }
    test_no_allocation_after_the_first_call();
    return result();
}
