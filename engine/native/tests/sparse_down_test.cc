// The whole computation without ONNX Runtime: threads, batches, blocks, allocations.
#include "dispatch/sparse_down.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <thread>

#include "testing.h"

namespace {
std::atomic<std::size_t> allocations{0};

void* allocate(std::size_t bytes, std::size_t alignment) {
    ++allocations;
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment < sizeof(void*) ? sizeof(void*) : alignment,
                       bytes != 0 ? bytes : 1) != 0) {
        throw std::bad_alloc();
    }
    return memory;
}
}  // namespace

// Counting replacements of all the forms that this program uses.
void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace lazyneuron {
namespace {

using testing::random_values;
using testing::same;

class Serial final : public ParallelFor {
 public:
    void run(std::size_t total, Work work, void* context) const override {
        for (std::size_t i = 0; i < total; ++i) work(context, i);
    }
};

// Last piece first, on three threads: an order no runtime would choose.
class Backwards final : public ParallelFor {
 public:
    void run(std::size_t total, Work work, void* context) const override {
        std::atomic<std::size_t> left{total};
        const auto loop = [&] {
            for (;;) {
                std::size_t mine = left.load();
                while (mine != 0 && !left.compare_exchange_weak(mine, mine - 1)) {
                }
                if (mine == 0) return;
                work(context, mine - 1);
            }
        };
        std::thread first(loop), second(loop);
        loop();
        first.join();
        second.join();
    }
};

// A problem with some rows without budget and one that holds a NaN.
struct Problem {
    // `dense`: row r keeps about r % 11 tenths of its neurons, else an eighth.
    Problem(std::size_t row_count, std::size_t neurons, std::size_t columns, bool dense = false,
            float first_weight = 1.0f)
        : rows(row_count),
          top_k(dense ? 0 : neurons / 8 + 1),
          layout(neurons, columns, WeightType::kFloat32),
          pre(random_values(rows * neurons, 0.3, 1)),
          down_bias(random_values(columns, 0.5, 2)),
          budget(rows, 1.0f),
          packed(layout.bytes()) {
        std::vector<float> down = random_values(neurons * columns, 0.5, 3);
        down[0] = first_weight;
        for (std::size_t p = 0; p < layout.panels(); ++p)
            finite &= layout.pack_panel(p, down.data(), packed.data());
        for (std::size_t r = 0; dense && r < rows; ++r) {
            const std::vector<float> row =
                random_values(neurons, 0.1 * static_cast<double>(r % 11), 4 + static_cast<unsigned>(r));
            std::copy(row.begin(), row.end(), pre.begin() + static_cast<std::ptrdiff_t>(r * neurons));
        }
        for (std::size_t r = 0; r < rows; r += 3) budget[r] = 0.5f * static_cast<float>(r % 4);
        if (rows > 5) pre[5 * neurons] = NAN;
    }

    struct Answer {
        std::vector<float> y;
        std::vector<std::int32_t> active;
    };

    Answer answer(std::size_t count) const {
        return {std::vector<float>(count * layout.columns(), -1.0f), std::vector<std::int32_t>(count, -1)};
    }

    void run(Answer& out, std::size_t first, std::size_t count, const ParallelFor& parallel) const {
        SparseDownTensors t{};
        t.rows = count;
        t.pre = pre.data() + first * layout.neurons();
        t.layout = layout;
        t.packed = packed.data();
        t.finite = finite;
        t.down_bias = down_bias.data();
        t.budget = budget.data() + first;
        t.y = out.y.data();
        t.active = out.active.data();
        SparseDownOptions options;
        options.top_k = top_k;
        const ScratchPool::Lease scratch(*pool, sparse_down_scratch_bytes(count, layout.neurons()));
        sparse_down(best_instruction_set().kernels, options, t, scratch.data(), parallel);
    }

    std::size_t rows, top_k;
    PanelLayout layout;
    std::vector<float> pre, down_bias, budget;
    AlignedBuffer packed;
    bool finite = true;
    std::shared_ptr<ScratchPool> pool = ScratchPool::shared();
};

bool equal(const std::vector<float>& a, const float* b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (!same(a[i], b[i])) return false;
    }
    return true;
}

void test_threads_and_batches(const Problem& problem) {
    const std::size_t rows = problem.rows, neurons = problem.layout.neurons(),
                      columns = problem.layout.columns();
    const std::string context = std::to_string(rows) + " x " + std::to_string(neurons);
    Problem::Answer serial = problem.answer(rows), threads = problem.answer(rows);
    problem.run(serial, 0, rows, Serial());
    problem.run(threads, 0, rows, Backwards());
    CHECK(equal(serial.y, threads.y.data()) && serial.active == threads.active, context);
    for (std::size_t r = 0; r < rows; ++r) {
        Problem::Answer alone = problem.answer(1);
        problem.run(alone, r, 1, Serial());
        CHECK(equal(alone.y, serial.y.data() + r * columns), context + ", row " + std::to_string(r));
        CHECK(alone.active[0] == serial.active[r] && alone.active[0] >= 0, context);
    }
}

void test_no_allocation_after_the_first_call() {
    const Problem problem(70, 130, 100);
    Problem::Answer out = problem.answer(70);
    problem.run(out, 0, 70, Serial());
    const std::size_t before = allocations;
    for (int i = 0; i < 10; ++i) problem.run(out, 0, 70, Serial());
    const std::size_t after = allocations;  // read before CHECK makes its message
    CHECK(after == before, std::to_string(after - before) + " allocations in later calls");
}

void test_pool_lends_distinct_blocks_and_is_shared() {
    const std::shared_ptr<ScratchPool> pool = ScratchPool::shared();
    CHECK(pool == ScratchPool::shared(), "one pool");
    const ScratchPool::Lease a(*pool, 100), b(*pool, 100);
    CHECK(a.data() != b.data(), "distinct blocks");
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % kScratchAlignment == 0, "aligned");
}

// Widths follow the level 2 cache; every element is where the layout says, the padding is zero.
void test_packing() {
    CHECK(PanelLayout(3072, 768, WeightType::kFloat32).width(0) == 64, "base-sized");
    CHECK(PanelLayout(4096, 1024, WeightType::kFloat32).width(0) == 32, "large");
    CHECK(PanelLayout(4096, 1024, WeightType::kFloat16).width(0) == 64, "large, float16");
    CHECK(PanelLayout(1 << 20, 1024, WeightType::kFloat32).width(0) == 16, "huge");
    const std::size_t neurons = 3, columns = 131;
    const PanelLayout layout(neurons, columns, WeightType::kInt8);
    std::vector<std::int8_t> down(neurons * columns), packed(layout.bytes(), 99);
    for (std::size_t i = 0; i < down.size(); ++i) down[i] = static_cast<std::int8_t>(i % 97 + 1);
    for (std::size_t p = 0; p < layout.panels(); ++p) layout.pack_panel(p, down.data(), packed.data());
    CHECK(layout.panels() == 3 && layout.width(2) == 16 && layout.columns(2) == 3, "panels");
    for (std::size_t p = 0; p < layout.panels(); ++p) {
        for (std::size_t f = 0; f < neurons; ++f) {
            for (std::size_t c = 0; c < layout.width(p); ++c) {
                const std::int8_t got = packed[layout.offset(p) + f * layout.width(p) + c];
                const bool used = c < layout.columns(p);
                CHECK(got == (used ? down[f * columns + layout.first_column(p) + c] : 0), "element");
            }
        }
    }
}

}  // namespace
}  // namespace lazyneuron

int main() {
    using namespace lazyneuron;
    test_packing();
    test_pool_lends_distinct_blocks_and_is_shared();
    test_threads_and_batches({1, 1, 1});
    test_threads_and_batches({7, 33, 17});
    test_threads_and_batches({200, 65, 131});
    test_threads_and_batches({9, 600000, 3});  // several blocks of rows, several panels' worth of cache
    // Rows of all densities side by side, then with weights that rule out the dense path.
    test_threads_and_batches({200, 65, 131, true});
    test_threads_and_batches({90, 2500, 70, true});
    test_threads_and_batches({90, 2500, 70, true, INFINITY});
    test_no_allocation_after_the_first_call();
    return testing::result();
}
