#include "dispatch/down_projection.h"

#include <algorithm>

#include "dispatch/fetch.h"

namespace lazyneuron {
namespace {

// Below this a task costs more to hand over than to do.
constexpr std::size_t kSerialMultiplyAdds = 128 * 1024;
// Rows that a panel serves before the next task may take over. Enough to pay for bringing the panel into the
// level 2 cache, few enough that a handful of panels still feeds many threads.
constexpr std::size_t kRowsPerTile = 64;

// Rows that keep at least this share of the neurons are done as dense ones, if a tile has enough of them to
// share the loads of the weights. Measured with float32 weights on Zen 4 (D 768, F 3072, 512 rows, AVX-512):
// a dense row costs what a list of 40 to 45 % of the neurons does.
constexpr float kDenseShare = 0.40f;
constexpr std::size_t kFewestDenseRows = 4;
// Coefficients that are spread out at a time: they fit the level 1 cache and the stack.
constexpr std::size_t kSpread = 1024;

std::size_t neurons_kept(const KeptLists& lists) {
    std::size_t kept = 0;
    for (std::size_t r = 0; r < lists.rows; ++r) {
        kept += static_cast<std::size_t>(std::max(lists.counts[r], 0));
    }
    return kept;
}

bool is_dense(std::int32_t count, std::size_t neurons) {
    return static_cast<float>(count) >= kDenseShare * static_cast<float>(neurons);
}

// Puts each coefficient at its neuron's place and zeros at the others. A coefficient's place in the list is
// never after its neuron's, so going from the end backwards overwrites nothing that is still needed.
void spread_out(std::size_t neurons, const std::int32_t* index, float* coefficient, std::int32_t& count) {
    std::size_t left = static_cast<std::size_t>(count);
    for (std::size_t end = neurons; left != 0 && left != end;) {
        const std::size_t first = (end - 1) / kSpread * kSpread;
        float spread[kSpread] = {};
        for (; left != 0 && static_cast<std::size_t>(index[left - 1]) >= first; --left) {
            spread[static_cast<std::size_t>(index[left - 1]) - first] = coefficient[left - 1];
        }
        std::copy_n(spread, end - first, coefficient + first);
        end = first;
        if (left == 0) std::fill_n(coefficient, first, 0.0f);
    }
    count = kDense;
}

void spread_out_tile(const KeptLists& lists, std::size_t neurons, std::size_t first) {
    const std::size_t last = std::min(lists.rows, first + kRowsPerTile);
    const auto dense = [neurons](std::int32_t count) { return is_dense(count, neurons); };
    const auto found = std::count_if(lists.counts + first, lists.counts + last, dense);
    if (static_cast<std::size_t>(found) < kFewestDenseRows) return;
    for (std::size_t r = first; r < last; ++r) {
        if (!is_dense(lists.counts[r], neurons)) continue;
        spread_out(neurons, lists.index + r * lists.stride, lists.coefficient + r * lists.stride,
                   lists.counts[r]);
    }
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
    a.neurons = layout.neurons();
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
    const std::size_t neurons = down.layout.neurons(), kept = neurons_kept(lists);
    // A row costs something even with no neuron.
    const bool serial = (kept + lists.rows) * down.layout.columns() < kSerialMultiplyAdds;
    // Most neurons will be wanted, by rows that leave gaps, and not all can be in the level 2 cache already.
    const bool fetch_panels =
        kept >= neurons && 2 * kept < lists.rows * neurons && down.layout.bytes() > kPanelBytes;
    // A zero times an infinity would be a NaN where the list has nothing, so such weights have lists only.
    const bool dense = down.finite && std::any_of(lists.counts, lists.counts + lists.rows,
                                                  [=](std::int32_t n) { return is_dense(n, neurons); });
    if (dense) {
        for_chunks(parallel, tiles, serial ? tiles : 1, [&](std::size_t begin, std::size_t end) {
            for (std::size_t t = begin; t < end; ++t) spread_out_tile(lists, neurons, t * kRowsPerTile);
        });
    }
    for_chunks(parallel, tasks, serial ? tasks : 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t task = begin; task < end; ++task) {
            const std::size_t panel = task / tiles, tile = task % tiles;
            if (fetch_panels && tile == 0) {
                fetch(static_cast<const char*>(down.packed) + down.layout.offset(panel),
                      down.layout.bytes(panel));
            }
            accumulate_tile(kernels, down, lists, panel, tile * kRowsPerTile, y);
        }
    });
}

}  // namespace lazyneuron
