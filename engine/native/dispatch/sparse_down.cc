#include "dispatch/sparse_down.h"

#include <algorithm>

#include "dispatch/down_projection.h"
#include "dispatch/kept_lists.h"

namespace lazyneuron {
namespace {

// Below this a task costs more to hand over than to do.
constexpr std::size_t kSelectNeuronsPerTask = 32 * 1024;

std::size_t rows_per_block(std::size_t rows, std::size_t neurons) {
    const std::size_t row_bytes = list_stride(neurons) * 8 + 4;
    return std::max<std::size_t>(1, std::min(rows, kListBytes / row_bytes));
}

KeptLists carve_lists(char* scratch, std::size_t rows, std::size_t neurons) {
    KeptLists lists{};
    lists.rows = rows;
    lists.stride = list_stride(neurons);
    lists.index = reinterpret_cast<std::int32_t*>(scratch);
    lists.coefficient = reinterpret_cast<float*>(lists.index + rows * lists.stride);
    lists.counts = reinterpret_cast<std::int32_t*>(lists.coefficient + rows * lists.stride);
    return lists;
}

// Which neurons a row keeps, and their coefficients.
std::int32_t select_row(const KernelSet& kernels, const SparseDownOptions& options,
                        const SparseDownTensors& t, std::size_t row, std::int32_t* index,
                        float* coefficient) {
    const std::size_t neurons = t.layout.neurons();
    const std::int32_t limit = row_limit(options.top_k, neurons, t.budget ? t.budget + row : nullptr);
    if (limit < 0) return limit;
    const SelectArguments arguments{
        t.pre + row * neurons,          t.up_bias, t.scale, neurons, options.activation, options.threshold,
        static_cast<std::size_t>(limit)};
    return kernels.select(arguments, index, coefficient);
}

}  // namespace

std::size_t sparse_down_scratch_bytes(std::size_t rows, std::size_t neurons) {
    return rows_per_block(rows, neurons) * (list_stride(neurons) * 8 + 4);
}

void sparse_down(const KernelSet& kernels, const SparseDownOptions& options, const SparseDownTensors& t,
                 char* scratch, const ParallelFor& parallel) {
    const std::size_t most = rows_per_block(t.rows, t.layout.neurons());
    for (std::size_t first = 0; first < t.rows; first += most) {
        const KeptLists lists = carve_lists(scratch, std::min(most, t.rows - first), t.layout.neurons());
        const std::size_t rows_per_task = std::max<std::size_t>(1, kSelectNeuronsPerTask / lists.stride);
        for_chunks(parallel, lists.rows, rows_per_task, [&](std::size_t begin, std::size_t end) {
            for (std::size_t r = begin; r < end; ++r) {
                lists.counts[r] = select_row(kernels, options, t, first + r, lists.index + r * lists.stride,
                                             lists.coefficient + r * lists.stride);
                t.active[first + r] = std::max<std::int32_t>(lists.counts[r], 0);
            }
        });
        const DownProjection down{t.layout, t.packed, t.down_bias, t.finite};
        project_down(kernels, down, lists, t.y + first * t.layout.columns(), parallel);
    }
}

}  // namespace lazyneuron
