#include "dispatch/down_projection.h"

namespace lazyneuron {
namespace {

// Below this a task costs more to hand over than to do.
constexpr std::size_t kSerialMultiplyAdds = 128 * 1024;
// Rows that a panel serves before the next task may take over. Enough to pay for bringing the panel into the
// level 2 cache, few enough that a handful of panels still feeds many threads.
constexpr std::size_t kRowsPerTile = 64;

std::size_t multiply_adds(const KeptLists& lists, std::size_t columns) {
    std::size_t kept = lists.rows;  // a row costs something even with no neuron
    for (std::size_t r = 0; r < lists.rows; ++r) {
        kept += static_cast<std::size_t>(std::max(lists.counts[r], 0));
    }
    return kept * columns;
}

void accumulate_tile(const KernelSet& kernels, const DownProjection& down, const KeptLists& lists,
                     std::size_t panel, std::size_t r, float* y) {
    const PanelLayout& layout = down.layout;
    const std::size_t column = layout.first_column(panel);
    AccumulateArguments a{};
    a.panel = static_cast<const char*>(down.packed) + layout.offset(panel);
    a.width = layout.width(panel);
    a.bias = down.bias ? down.bias + column : nullptr;
    a.columns = layout.columns(panel);
    a.rows = std::min(kRowsPerTile, lists.rows - r);
    a.counts = lists.counts + r;
    a.index = lists.index + r * lists.stride;
    a.coefficient = lists.coefficient + r * lists.stride;
    a.list_stride = lists.stride;
    a.y = y + r * layout.columns() + column;
    a.y_stride = layout.columns();
    kernels.accumulate[static_cast<int>(layout.type())](a);
}

}  // namespace

// Every panel for every tile of rows. Tiles of a panel are neighbours, so that a thread stays with a panel;
// one row alone still spreads over the threads, by its panels.
void project_down(const KernelSet& kernels, const DownProjection& down, const KeptLists& lists, float* y,
                  const ParallelFor& parallel) {
    const std::size_t tiles = (lists.rows + kRowsPerTile - 1) / kRowsPerTile;
    const std::size_t tasks = tiles * down.layout.panels();
    const bool serial = multiply_adds(lists, down.layout.columns()) < kSerialMultiplyAdds;
    for_chunks(parallel, tasks, serial ? tasks : 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t task = begin; task < end; ++task) {
            accumulate_tile(kernels, down, lists, task / tiles, task % tiles * kRowsPerTile, y);
        }
    });
}

}  // namespace lazyneuron
