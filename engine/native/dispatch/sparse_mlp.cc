#include "dispatch/sparse_mlp.h"

#include <algorithm>
#include <cmath>

#include "dispatch/down_projection.h"
#include "dispatch/kept_lists.h"
#include "kernels/project.h"

namespace lazyneuron {
namespace {

// Below these a task costs more to hand over than to do.
constexpr std::size_t kElementsPerTask = 32 * 1024;
constexpr std::size_t kScreenMultiplyAddsPerTask = 512 * 1024;
constexpr std::size_t kSerialMultiplyAdds = 128 * 1024;
// Rows that a panel of the screen, or a block of neurons, serves before the next task may take over. The
// first is a multiple of every instruction set's block of rows.
constexpr std::size_t kScreenRowsPerTile = 192;
constexpr std::size_t kProjectRowsPerTile = 64;
// Neurons' weights that stay in the level 2 cache (1 MiB on Zen 4) while the rows of a tile go by.
constexpr std::size_t kNeuronBlockBytes = 640 * 1024;
// A block of rows may take this much scratch; of its lists only what is used is ever touched.
constexpr std::size_t kBlockBytes = 64 * 1024 * 1024;

constexpr std::size_t divide_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit; }
constexpr std::size_t round_up(std::size_t value, std::size_t unit) { return divide_up(value, unit) * unit; }

// Sizes that follow from a call's tensors.
struct Sizes {
    Sizes(const SparseMlpOptions& options, const SparseMlpTensors& t)
        : neurons(t.layout.neurons()),
          panels(divide_up(neurons, kScreenPanel)),
          stride(list_stride(neurons)),
          certified(options.mode == Mode::kCertified),
          gated(options.mode == Mode::kGate || t.gate.data) {
        const std::size_t panel_bytes = kScreenPanel * t.depth * element_size(t.up.type);
        panels_per_block = std::max<std::size_t>(1, kNeuronBlockBytes / panel_bytes);
        blocks = divide_up(panels, panels_per_block);
    }

    std::size_t neurons, panels, stride, panels_per_block, blocks;
    bool certified, gated;
};

// Cuts scratch memory into arrays; with null memory it only counts.
class Carver {
 public:
    explicit Carver(char* memory) : memory_(memory) {}
    template <class T>
    T* take(std::size_t count) {
        T* const array = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
        used_ += round_up(count * sizeof(T), kScratchAlignment);
        return array;
    }
    std::size_t used() const { return used_; }

 private:
    char* memory_;
    std::size_t used_ = 0;
};

// What a block of rows writes down. Rows are numbered within the block.
struct Workspace {
    Workspace(Carver& carve, const Sizes& s, std::size_t rows, std::size_t code_stride) {
        limit = carve.take<std::int32_t>(rows);
        live = carve.take<std::int32_t>(rows);
        found = carve.take<std::int32_t>(rows);
        bounds = carve.take<std::int32_t>(rows * (s.blocks + 1));
        candidate = carve.take<std::int32_t>(rows * s.stride);
        value = carve.take<float>(rows * s.stride);
        if (s.gated) gate = carve.take<float>(rows * s.stride);
        lists.rows = rows;
        lists.stride = s.stride;
        lists.index = carve.take<std::int32_t>(rows * s.stride);
        lists.coefficient = carve.take<float>(rows * s.stride);
        lists.counts = carve.take<std::int32_t>(rows);
        if (!s.certified) return;
        codes = carve.take<std::uint8_t>(rows * code_stride);
        dense = carve.take<std::uint8_t>(rows);
        terms.inverse = carve.take<float>(rows);
        terms.norm = carve.take<float>(rows);
        terms.residual = carve.take<float>(rows);
        mask = carve.take<std::uint64_t>(rows * s.panels);
    }

    std::int32_t* limit;      // [rows] row_limit
    std::int32_t* live;       // the rows that have a budget, ascending
    std::int32_t* found;      // [rows] how many candidates, or kPoisoned
    std::int32_t* bounds;     // [rows][blocks + 1] where each block of neurons begins in the row's list
    std::int32_t* candidate;  // [rows][stride]
    float* value;             // [rows][stride]
    float* gate = nullptr;    // [rows][stride]
    KeptLists lists{};
    // Certified mode; these are numbered as `live` is, so that rows without a budget cost nothing.
    std::uint8_t* codes = nullptr;
    std::uint8_t* dense = nullptr;  // no bound holds: every neuron is a candidate
    RowTerms terms{};
    std::uint64_t* mask = nullptr;  // [live][panels]
};

std::size_t workspace_bytes(const Sizes& sizes, const SparseMlpTensors& t, std::size_t rows) {
    Carver count(nullptr);
    Workspace(count, sizes, rows, t.screen ? t.screen->code_stride() : 0);
    return count.used();
}

// Equal blocks, each within kBlockBytes; a single row that needs more gets it.
std::size_t rows_per_block(const Sizes& sizes, const SparseMlpTensors& t) {
    const std::size_t row_bytes = workspace_bytes(sizes, t, 1);
    const std::size_t most = std::max<std::size_t>(1, kBlockBytes / row_bytes);
    return divide_up(t.rows, divide_up(t.rows, most));
}

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
            screen();
        }
        find_candidates();
        if (options_.mode == Mode::kPredictor && s_.gated) project(t_.gate, nullptr, w_.gate);
        project(t_.up, t_.up_bias, w_.value);
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

    // Tiles of a panel are neighbours, so that a thread stays with a panel; of few rows several panels make a
    // task.
    void screen() const {
        const std::size_t tiles = divide_up(live_, kScreenRowsPerTile);
        const std::size_t work = kScreenPanel * t_.depth * std::min(live_, kScreenRowsPerTile);
        const std::size_t chunk = work == 0 ? 1 : divide_up(kScreenMultiplyAddsPerTask, work);
        for_chunks(parallel_, s_.panels * tiles, chunk, [this, tiles](std::size_t begin, std::size_t end) {
            for (std::size_t task = begin; task < end; ++task) screen_tile(task / tiles, task % tiles);
        });
    }

    void screen_tile(std::size_t panel, std::size_t tile) const {
        const std::size_t i = tile * kScreenRowsPerTile;
        ScreenArguments a{};
        t_.screen->set_panel(panel, a);
        a.codes = w_.codes + i * a.code_stride;
        a.rows = std::min(kScreenRowsPerTile, live_ - i);
        a.terms = {w_.terms.inverse + i, w_.terms.norm + i, w_.terms.residual + i};
        a.mask = w_.mask + i * s_.panels + panel;
        a.mask_stride = s_.panels;
        t_.screen->run(a);
    }

    void find_candidates() const {
        const std::size_t chunk = std::max<std::size_t>(1, kElementsPerTask / s_.neurons);
        for_chunks(parallel_, live_, chunk, [this](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                if (!s_.certified) {
                    candidates_by_score(row(i));
                } else if (w_.dense[i]) {
                    every_neuron(row(i));
                } else {
                    candidates_by_mask(row(i), w_.mask + i * s_.panels);
                }
            }
        });
    }

    void candidates_by_mask(std::size_t r, const std::uint64_t* mask) const {
        std::int32_t* const list = w_.candidate + r * s_.stride;
        std::int32_t* const bounds = w_.bounds + r * (s_.blocks + 1);
        std::int32_t count = 0;
        for (std::size_t block = 0; block < s_.blocks; ++block) {
            const std::size_t panel = block * s_.panels_per_block;
            const std::size_t panels = std::min(s_.panels_per_block, s_.panels - panel);
            bounds[block] = count;
            count += kernels_.list_mask(mask + panel, panels, static_cast<std::int32_t>(panel * kScreenPanel),
                                        list + count);
        }
        bounds[s_.blocks] = w_.found[r] = count;
    }

    void every_neuron(std::size_t r) const {
        std::int32_t* const list = w_.candidate + r * s_.stride;
        for (std::size_t f = 0; f < s_.neurons; ++f) list[f] = static_cast<std::int32_t>(f);
        w_.found[r] = static_cast<std::int32_t>(s_.neurons);
        set_bounds(r, list);
    }

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
        std::int32_t* const bounds = w_.bounds + r * (s_.blocks + 1);
        const std::int32_t count = std::max(w_.found[r], 0);
        std::int32_t position = 0;
        for (std::size_t block = 0; block < s_.blocks; ++block) {
            const auto first = static_cast<std::int32_t>(block * s_.panels_per_block * kScreenPanel);
            while (position < count && list[position] < first) ++position;
            bounds[block] = position;
        }
        bounds[s_.blocks] = count;
    }

    // Tiles of a block of neurons are neighbours, so that a thread stays with a block.
    void project(const NeuronWeights& weights, const float* bias, float* value) const {
        std::size_t found = 0;
        for (std::size_t i = 0; i < live_; ++i)
            found += static_cast<std::size_t>(std::max(w_.found[row(i)], 0));
        const std::size_t tiles = divide_up(live_, kProjectRowsPerTile), tasks = tiles * s_.blocks;
        const bool serial = found * t_.depth < kSerialMultiplyAdds;
        for_chunks(parallel_, tasks, serial ? std::max<std::size_t>(tasks, 1) : 1,
                   [&, this](std::size_t begin, std::size_t end) {
                       for (std::size_t task = begin; task < end; ++task) {
                           project_tile(weights, bias, value, task / tiles, task % tiles);
                       }
                   });
    }

    void project_tile(const NeuronWeights& weights, const float* bias, float* value, std::size_t block,
                      std::size_t tile) const {
        const std::size_t i = tile * kProjectRowsPerTile;
        const std::size_t block_neurons = s_.panels_per_block * kScreenPanel;
        ProjectArguments a{};
        a.weights = weights.data;
        a.depth = t_.depth;
        a.scale = weights.scale;
        a.bias = bias;
        a.first = block * block_neurons;
        a.last = std::min(s_.neurons, a.first + block_neurons);
        a.x = x(0);
        a.rows = w_.live + i;
        a.count = std::min(kProjectRowsPerTile, live_ - i);
        a.bounds = w_.bounds + block;
        a.bounds_stride = s_.blocks + 1;
        a.index = w_.candidate;
        a.value = value;
        a.list_stride = s_.stride;
        kernels_.project[static_cast<int>(weights.type)](a);
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
