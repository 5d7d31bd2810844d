#include "dispatch/sparse_down.h"

#include <algorithm>
#include <cmath>

namespace lazyneuron {
namespace {

// Below these a task costs more to hand over than to do.
constexpr std::size_t kSelectNeuronsPerTask = 32 * 1024;
constexpr std::size_t kSerialMultiplyAdds = 128 * 1024;
// Rows that a panel serves before the next task may take over. Enough to pay for bringing the panel into the
// level 2 cache, few enough that a handful of panels still feeds many threads.
constexpr std::size_t kRowsPerTile = 64;

constexpr std::size_t round_up(std::size_t value, std::size_t unit) {
    return (value + unit - 1) / unit * unit;
}

// The lists have room for whole vectors, since compaction stores whole vectors.
std::size_t list_stride(std::size_t neurons) { return round_up(neurons, kColumnGroup); }

std::size_t rows_per_block(std::size_t rows, std::size_t neurons) {
    const std::size_t row_bytes = list_stride(neurons) * 8 + 4;
    return std::max<std::size_t>(1, std::min(rows, kListBytes / row_bytes));
}

// Calls work(begin, end) over [0, total) in chunks, on this thread if there is just one.
template <class Work>
void for_chunks(const ParallelFor& parallel, std::size_t total, std::size_t chunk, const Work& work) {
    const std::size_t tasks = (total + chunk - 1) / chunk;
    if (tasks <= 1) return work(0, total);
    struct Context {
        const Work* work;
        std::size_t total, chunk;
    } context{&work, total, chunk};
    parallel.run(
        tasks,
        [](void* raw, std::size_t task) {
            const Context& c = *static_cast<const Context*>(raw);
            const std::size_t begin = task * c.chunk;
            (*c.work)(begin, std::min(c.total, begin + c.chunk));
        },
        &context);
}

// One block of rows.
class Block {
 public:
    Block(const KernelSet& kernels, const SparseDownOptions& options, const SparseDownTensors& tensors,
          char* scratch, std::size_t first, std::size_t rows)
        : kernels_(kernels),
          options_(options),
          t_(tensors),
          first_(first),
          rows_(rows),
          stride_(list_stride(tensors.layout.neurons())) {
        index_ = reinterpret_cast<std::int32_t*>(scratch);
        coefficient_ = reinterpret_cast<float*>(index_ + rows * stride_);
        counts_ = reinterpret_cast<std::int32_t*>(coefficient_ + rows * stride_);
    }

    // Phase 1: which neurons each row keeps, and their coefficients.
    void select(const ParallelFor& parallel) {
        const std::size_t rows_per_task = std::max<std::size_t>(1, kSelectNeuronsPerTask / stride_);
        for_chunks(parallel, rows_, rows_per_task, [this](std::size_t begin, std::size_t end) {
            for (std::size_t r = begin; r < end; ++r) {
                counts_[r] = select_row(r);
                t_.active[first_ + r] = std::max<std::int32_t>(counts_[r], 0);
            }
        });
    }

    // Phase 2: every panel for every tile of rows. Tiles of a panel are neighbours, so that a thread stays
    // with a panel; one row alone still spreads over the threads, by its panels.
    void accumulate(const ParallelFor& parallel) const {
        const std::size_t tiles = (rows_ + kRowsPerTile - 1) / kRowsPerTile;
        const std::size_t tasks = tiles * t_.layout.panels();
        const std::size_t chunk = multiply_adds() < kSerialMultiplyAdds ? tasks : 1;
        for_chunks(parallel, tasks, chunk, [this, tiles](std::size_t begin, std::size_t end) {
            for (std::size_t task = begin; task < end; ++task) accumulate_tile(task / tiles, task % tiles);
        });
    }

 private:
    std::int32_t select_row(std::size_t r) const {
        const std::size_t row = first_ + r, neurons = t_.layout.neurons();
        std::size_t keep = options_.top_k != 0 ? options_.top_k : neurons;
        if (t_.budget != nullptr) {
            const float budget = t_.budget[row];
            if (std::isnan(budget)) return kPoisoned;
            if (!(budget > 0.0f)) return kSkipped;
            const float wanted = std::ceil(budget * static_cast<float>(keep));
            keep = wanted >= static_cast<float>(neurons) ? neurons : static_cast<std::size_t>(wanted);
        }
        const SelectArguments arguments{t_.pre + row * neurons, t_.up_bias,         t_.scale, neurons,
                                        options_.activation,    options_.threshold, keep};
        return kernels_.select(arguments, index_ + r * stride_, coefficient_ + r * stride_);
    }

    void accumulate_tile(std::size_t panel, std::size_t tile) const {
        const PanelLayout& layout = t_.layout;
        const std::size_t r = tile * kRowsPerTile, column = layout.first_column(panel);
        AccumulateArguments a{};
        a.panel = static_cast<const char*>(t_.packed) + layout.offset(panel);
        a.width = layout.width(panel);
        a.bias = t_.down_bias ? t_.down_bias + column : nullptr;
        a.columns = layout.columns(panel);
        a.rows = std::min(kRowsPerTile, rows_ - r);
        a.counts = counts_ + r;
        a.index = index_ + r * stride_;
        a.coefficient = coefficient_ + r * stride_;
        a.list_stride = stride_;
        a.y = t_.y + (first_ + r) * layout.columns() + column;
        a.y_stride = layout.columns();
        kernels_.accumulate[static_cast<int>(layout.type())](a);
    }

    std::size_t multiply_adds() const {
        std::size_t kept = rows_;  // a row costs something even with no neuron
        for (std::size_t r = 0; r < rows_; ++r) kept += static_cast<std::size_t>(std::max(counts_[r], 0));
        return kept * t_.layout.columns();
    }

    const KernelSet& kernels_;
    const SparseDownOptions& options_;
    const SparseDownTensors& t_;
    const std::size_t first_, rows_, stride_;
    std::int32_t* index_;   // [rows][stride]
    float* coefficient_;    // [rows][stride]
    std::int32_t* counts_;  // [rows]
};

}  // namespace

std::size_t sparse_down_scratch_bytes(std::size_t rows, std::size_t neurons) {
    return rows_per_block(rows, neurons) * (list_stride(neurons) * 8 + 4);
}

void sparse_down(const KernelSet& kernels, const SparseDownOptions& options, const SparseDownTensors& tensors,
                 char* scratch, const ParallelFor& parallel) {
    const std::size_t most = rows_per_block(tensors.rows, tensors.layout.neurons());
    for (std::size_t first = 0; first < tensors.rows; first += most) {
        Block block(kernels, options, tensors, scratch, first, std::min(most, tensors.rows - first));
        block.select(parallel);
        block.accumulate(parallel);
    }
}

}  // namespace lazyneuron
