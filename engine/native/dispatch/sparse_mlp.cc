#include "dispatch/sparse_mlp.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dispatch/down_projection.h"
#include "dispatch/fetch.h"
#include "dispatch/workspace.h"
#include "kernels/project.h"

namespace lazyneuron {
namespace {

// Below these a task costs more to hand over than to do.
constexpr std::size_t kElementsPerTask = 32 * 1024;
constexpr std::size_t kScreenMultiplyAddsPerTask = 512 * 1024;
constexpr std::size_t kSerialMultiplyAdds = 128 * 1024;
// Rows that a panel of the screen serves before the next task may take over.
constexpr std::size_t kScreenRowsPerTile = 192;
// With fewer rows too few of a block's neurons may be wanted to fetch them all before that is known.
constexpr std::size_t kFewestRowsToFetch = 32;

// One block of rows.
class Block {
 public:
    Block(const KernelSet& kernels, const SparseMlpOptions& options, const SparseMlpTensors& tensors,
          const Sizes& sizes, const Workspace& workspace, std::size_t first, const ParallelFor& parallel)
        : kernels_(kernels),
          options_(options),
          t_(tensors),
          s_(sizes),
          w_(workspace),
          first_(first),
          parallel_(parallel) {}

    void run() {
        find_live_rows();
        if (s_.certified) {
            quantize();
            if (one_tile()) {
                screen_and_project();
            } else {
                screen();
                list_rows([this](std::size_t i) { candidates_by_mask(i); });
                project(t_.up, t_.up_bias, w_.value);
            }
        } else {
            list_rows([this](std::size_t i) { candidates_by_score(row(i)); });
            if (options_.mode == Mode::kPredictor && s_.gated) project(t_.gate, nullptr, w_.gate);
            project(t_.up, t_.up_bias, w_.value);
        }
        select();
        const DownProjection down{t_.layout, t_.packed, t_.down_bias, t_.finite};
        project_down(kernels_, down, w_.lists, t_.y + first_ * t_.layout.columns(), parallel_);
    }

 private:
    std::size_t row(std::size_t i) const { return static_cast<std::size_t>(w_.live[i]); }
    const float* x(std::size_t r) const { return t_.x + (first_ + r) * t_.depth; }

    void find_live_rows() {
        live_ = 0;
        for (std::size_t r = 0; r < w_.lists.rows; ++r) {
            const float* budget = t_.budget ? t_.budget + first_ + r : nullptr;
            w_.limit[r] = row_limit(options_.gating.top_k, s_.neurons, budget);
            w_.found[r] = 0;
            if (w_.limit[r] >= 0) w_.live[live_++] = static_cast<std::int32_t>(r);
        }
    }

    void quantize() const {
        const std::size_t chunk = std::max<std::size_t>(1, kElementsPerTask / t_.depth);
        for_chunks(parallel_, live_, chunk, [this](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                w_.dense[i] =
                    !t_.screen->quantize(x(row(i)), w_.codes + i * t_.screen->code_stride(),
                                         w_.terms.inverse[i], w_.terms.norm[i], w_.terms.residual[i]);
            }
        });
    }

    // Tiles of a panel are neighbours, so that a thread stays with a panel.
    void screen() const {
        const std::size_t tiles = divide_up(live_, kScreenRowsPerTile);
        for_chunks(parallel_, s_.panels * tiles, 1, [this, tiles](std::size_t begin, std::size_t end) {
            for (std::size_t task = begin; task < end; ++task) {
                const std::size_t first = task % tiles * kScreenRowsPerTile;
                t_.screen->run(
                    screen_arguments(task / tiles, first, std::min(kScreenRowsPerTile, live_ - first)));
            }
        });
    }

    // With just one tile of rows a block's candidates are computed right after its screen, which leaves the
    // memory idle: it fetches the block's weights meanwhile. Of few rows several blocks make a task.
    bool one_tile() const { return w_.lists.rows <= kRowsPerTile; }

    void screen_and_project() const {
        const std::size_t work = s_.block_neurons() * t_.depth * live_;
        const std::size_t chunk = work == 0 ? s_.blocks : divide_up(kScreenMultiplyAddsPerTask, work);
        for_chunks(parallel_, s_.blocks, chunk, [this](std::size_t begin, std::size_t end) {
            for (std::size_t block = begin; block < end; ++block) {
                screen_block(block);
                const std::size_t found = list_parts(block);
                if (live_ > 1 && live_ < kFewestRowsToFetch && found >= neurons_of(block))
                    fetch_block(t_.up, block);
                ProjectArguments a = project_arguments(t_.up, t_.up_bias, block, 0);
                a.index = w_.part_candidate + part(block, 0);
                a.value = w_.part_value + part(block, 0);
                a.list_stride = s_.part_stride;
                kernels_.project[static_cast<int>(t_.up.type)](a);
            }
        });
    }

    ScreenArguments screen_arguments(std::size_t panel, std::size_t first, std::size_t rows) const {
        ScreenArguments a{};
        t_.screen->set_panel(panel, a);
        a.codes = w_.codes + first * a.code_stride;
        a.rows = rows;
        a.terms = {w_.terms.inverse + first, w_.terms.norm + first, w_.terms.residual + first};
        a.mask = w_.mask + first * s_.panels + panel;
        a.mask_stride = s_.panels;
        return a;
    }

    void screen_block(std::size_t block) const {
        const std::size_t first = block * s_.panels_per_block, neuron = neuron_bytes(t_.up);
        for (std::size_t panel = first; panel < first + panels_of(block); ++panel) {
            ScreenArguments a = screen_arguments(panel, 0, live_);
            if (live_ >= kFewestRowsToFetch) {
                const std::size_t f = panel * kScreenPanel;
                a.fetch = static_cast<const char*>(t_.up.data) + f * neuron;
                a.fetch_bytes = std::min(kScreenPanel, s_.neurons - f) * neuron;
            }
            t_.screen->run(a);
        }
    }

    std::size_t list_parts(std::size_t block) const {
        std::size_t found = 0;
        for (std::size_t i = 0; i < live_; ++i) {
            std::int32_t* const bounds = bounds_of(row(i)) + 2 * block;
            bounds[0] = 0;
            bounds[1] = list_block(i, block, w_.part_candidate + part(block, row(i)));
            found += static_cast<std::size_t>(bounds[1]);
        }
        return found;
    }

    // A row's candidates, from its parts; returns how many they are.
    std::int32_t join_parts(std::size_t r) const {
        std::int32_t* list = w_.candidate + r * s_.stride;
        float* value = w_.value + r * s_.stride;
        for (std::size_t block = 0; block < s_.blocks; ++block) {
            const std::int32_t count = bounds_of(r)[2 * block + 1];
            list = std::copy_n(w_.part_candidate + part(block, r), count, list);
            value = std::copy_n(w_.part_value + part(block, r), count, value);
        }
        return static_cast<std::int32_t>(list - (w_.candidate + r * s_.stride));
    }

    std::size_t part(std::size_t block, std::size_t r) const {
        return (block * w_.lists.rows + r) * s_.part_stride;
    }

    template <class List>
    void list_rows(const List& list) const {
        const std::size_t chunk = std::max<std::size_t>(1, kElementsPerTask / s_.neurons);
        for_chunks(parallel_, live_, chunk, [&list](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) list(i);
        });
    }

    void candidates_by_mask(std::size_t i) const {
        std::int32_t* const list = w_.candidate + row(i) * s_.stride;
        std::int32_t* const bounds = bounds_of(row(i));
        std::int32_t count = 0;
        for (std::size_t block = 0; block < s_.blocks; ++block) {
            bounds[2 * block] = count;
            count += list_block(i, block, list + count);
            bounds[2 * block + 1] = count;
        }
        w_.found[row(i)] = count;
    }

    // A block's candidates for a row; returns how many they are.
    std::int32_t list_block(std::size_t i, std::size_t block, std::int32_t* list) const {
        const auto first = static_cast<std::int32_t>(block * s_.block_neurons());
        if (!w_.dense[i]) {
            const std::uint64_t* const mask = w_.mask + i * s_.panels + block * s_.panels_per_block;
            return kernels_.list_mask(mask, panels_of(block), first, list);
        }
        std::iota(list, list + neurons_of(block), first);
        return static_cast<std::int32_t>(neurons_of(block));
    }

    std::size_t panels_of(std::size_t block) const {
        return std::min(s_.panels_per_block, s_.panels - block * s_.panels_per_block);
    }
    std::size_t neurons_of(std::size_t block) const {
        return std::min(s_.block_neurons(), s_.neurons - block * s_.block_neurons());
    }
    std::size_t neuron_bytes(const NeuronWeights& weights) const {
        return t_.depth * element_size(weights.type);
    }
    std::int32_t* bounds_of(std::size_t r) const { return w_.bounds + r * 2 * s_.blocks; }

    void candidates_by_score(std::size_t r) const {
        std::int32_t* const list = w_.candidate + r * s_.stride;
        w_.found[r] = list_by_score(r, list);
        set_bounds(r, list);
    }

    std::int32_t list_by_score(std::size_t r, std::int32_t* list) const {
        const float* scores = t_.scores + (first_ + r) * s_.neurons;
        if (options_.mode == Mode::kPredictor) {
            return kernels_.compact_above(scores, s_.neurons, options_.score_threshold, list);
        }
        // The gate projection's activation is what its candidates are chosen by.
        const SelectArguments gate{
            scores,    nullptr, nullptr, s_.neurons, options_.gating.activation, options_.score_threshold,
            s_.neurons};
        return kernels_.select(gate, list, w_.gate + r * s_.stride);
    }

    void set_bounds(std::size_t r, const std::int32_t* list) const {
        std::int32_t* const bounds = bounds_of(r);
        const std::int32_t count = std::max(w_.found[r], 0);
        std::int32_t position = 0;
        for (std::size_t block = 0; block < s_.blocks; ++block) {
            bounds[2 * block] = position;
            const auto next = static_cast<std::int32_t>((block + 1) * s_.block_neurons());
            while (position < count && list[position] < next) ++position;
            bounds[2 * block + 1] = position;
        }
    }

    // Tiles of a block of neurons are neighbours, so that a thread stays with a block.
    void project(const NeuronWeights& weights, const float* bias, float* value) const {
        std::size_t found = 0;
        for (std::size_t i = 0; i < live_; ++i)
            found += static_cast<std::size_t>(std::max(w_.found[row(i)], 0));
        const std::size_t tiles = divide_up(live_, kRowsPerTile), tasks = tiles * s_.blocks;
        const bool serial = found * t_.depth < kSerialMultiplyAdds, most = live_ > 1 && found >= s_.neurons;
        for_chunks(parallel_, tasks, serial ? std::max<std::size_t>(tasks, 1) : 1,
                   [&, this](std::size_t begin, std::size_t end) {
                       for (std::size_t task = begin; task < end; ++task) {
                           const std::size_t block = task / tiles, tile = task % tiles;
                           if (most && tile == 0) fetch_block(weights, block);
                           ProjectArguments a = project_arguments(weights, bias, block, tile);
                           a.index = w_.candidate;
                           a.value = value;
                           a.list_stride = s_.stride;
                           kernels_.project[static_cast<int>(weights.type)](a);
                       }
                   });
    }

    void fetch_block(const NeuronWeights& weights, std::size_t block) const {
        const std::size_t neuron = neuron_bytes(weights);
        fetch(static_cast<const char*>(weights.data) + block * s_.block_neurons() * neuron,
              neurons_of(block) * neuron);
    }

    // All but where the lists are.
    ProjectArguments project_arguments(const NeuronWeights& weights, const float* bias, std::size_t block,
                                       std::size_t tile) const {
        ProjectArguments a{};
        a.weights = weights.data;
        a.depth = t_.depth;
        a.scale = weights.scale;
        a.bias = bias;
        a.first = block * s_.block_neurons();
        a.last = a.first + neurons_of(block);
        a.x = x(0);
        a.rows = w_.live + tile * kRowsPerTile;
        a.count = std::min(kRowsPerTile, live_ - tile * kRowsPerTile);
        a.bounds = w_.bounds + 2 * block;
        a.bounds_stride = 2 * s_.blocks;
        return a;
    }

    void select() const {
        const std::size_t chunk = std::max<std::size_t>(1, kElementsPerTask / s_.stride);
        for_chunks(parallel_, w_.lists.rows, chunk, [this](std::size_t begin, std::size_t end) {
            for (std::size_t r = begin; r < end; ++r) {
                w_.lists.counts[r] = select_row(r);
                t_.active[first_ + r] = std::max(w_.lists.counts[r], 0);
                t_.candidates[first_ + r] = std::max(w_.found[r], 0);
            }
        });
    }

    std::int32_t select_row(std::size_t r) const {
        if (w_.limit[r] < 0) return w_.limit[r];
        if (s_.certified && one_tile()) w_.found[r] = join_parts(r);
        if (w_.found[r] < 0) return w_.found[r];
        const auto found = static_cast<std::size_t>(w_.found[r]);
        // Without a candidate no value tells of a NaN in x. A certified row with one has every neuron.
        if (found == 0) return has_nan(x(r)) ? kPoisoned : 0;
        float* const value = w_.value + r * s_.stride;
        Activation activation = options_.gating.activation;
        if (s_.gated) {
            // What a gate scores is activated already.
            const Activation gate = options_.mode == Mode::kGate ? Activation::kIdentity : activation;
            kernels_.multiply_by_gate(gate, w_.gate + r * s_.stride, value, found);
            activation = Activation::kIdentity;
        }
        const SelectArguments arguments{value,
                                        nullptr,
                                        nullptr,
                                        found,
                                        activation,
                                        options_.gating.threshold,
                                        static_cast<std::size_t>(w_.limit[r])};
        std::int32_t* const index = w_.lists.index + r * s_.stride;
        float* const coefficient = w_.lists.coefficient + r * s_.stride;
        const std::int32_t kept = kernels_.select(arguments, index, coefficient);
        const std::int32_t* const candidate = w_.candidate + r * s_.stride;
        for (std::int32_t i = 0; i < kept; ++i) {  // from places in the list to neurons
            index[i] = candidate[index[i]];
            if (t_.down_scale != nullptr) coefficient[i] *= t_.down_scale[index[i]];
        }
        return kept;
    }

    bool has_nan(const float* values) const {
        return std::any_of(values, values + t_.depth, [](float v) { return std::isnan(v); });
    }

    const KernelSet& kernels_;
    const SparseMlpOptions& options_;
    const SparseMlpTensors& t_;
    const Sizes& s_;
    const Workspace& w_;
    const std::size_t first_;
    const ParallelFor& parallel_;
    std::size_t live_ = 0;
};

}  // namespace

std::size_t sparse_mlp_scratch_bytes(const SparseMlpOptions& options, const SparseMlpTensors& t) {
    const Sizes sizes(options, t);
    return workspace_bytes(sizes, t, rows_per_block(sizes, t));
}

void sparse_mlp(const KernelSet& kernels, const SparseMlpOptions& options, const SparseMlpTensors& t,
                char* scratch, const ParallelFor& parallel) {
    const Sizes sizes(options, t);
    const std::size_t most = rows_per_block(sizes, t);
    for (std::size_t first = 0; first < t.rows; first += most) {
        Carver carve(scratch);
        const Workspace workspace(carve, sizes, std::min(most, t.rows - first),
                                  t.screen ? t.screen->code_stride() : 0);
        Block(kernels, options, t, sizes, workspace, first, parallel).run();
    }
}

}  // namespace lazyneuron
