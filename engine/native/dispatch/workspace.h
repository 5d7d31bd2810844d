// How much scratch memory SparseMLP's phases need, and where each array lies in it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "dispatch/kept_lists.h"
#include "dispatch/sparse_mlp.h"

namespace lazyneuron {

// Neurons' weights that stay in the level 2 cache (1 MiB on Zen 4) while the rows of a tile go by.
constexpr std::size_t kNeuronBlockBytes = 640 * 1024;
// Rows that a block of neurons serves before the next task may take over: their x stays in the cache, too.
constexpr std::size_t kRowsPerTile = 72;
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
        part_stride = list_stride(block_neurons());
    }

    std::size_t block_neurons() const { return panels_per_block * kScreenPanel; }

    std::size_t neurons, panels, stride;
    bool certified, gated;
    std::size_t panels_per_block, blocks, part_stride;
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
        bounds = carve.take<std::int32_t>(rows * 2 * s.blocks);
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
        if (rows > kRowsPerTile) return;
        part_candidate = carve.take<std::int32_t>(s.blocks * rows * s.part_stride);
        part_value = carve.take<float>(s.blocks * rows * s.part_stride);
    }

    std::int32_t* limit;   // [rows] row_limit
    std::int32_t* live;    // the rows that have a budget, ascending
    std::int32_t* found;   // [rows] how many candidates, or kPoisoned
    std::int32_t* bounds;  // [rows][blocks][2] where each block of neurons begins and ends in the row's list
    std::int32_t* candidate;  // [rows][stride]
    float* value;             // [rows][stride]
    float* gate = nullptr;    // [rows][stride]
    KeptLists lists{};
    // Certified mode; these are numbered as `live` is, so that rows without a budget cost nothing.
    std::uint8_t* codes = nullptr;
    std::uint8_t* dense = nullptr;  // no bound holds: every neuron is a candidate
    RowTerms terms{};
    std::uint64_t* mask = nullptr;  // [live][panels]
    // A single tile's lists, a block of neurons after another; `bounds` counts from the part's begin.
    std::int32_t* part_candidate = nullptr;  // [blocks][rows][part_stride]
    float* part_value = nullptr;             // [blocks][rows][part_stride]
};

inline std::size_t workspace_bytes(const Sizes& sizes, const SparseMlpTensors& t, std::size_t rows) {
    Carver count(nullptr);
    Workspace(count, sizes, rows, t.screen ? t.screen->code_stride() : 0);
    return count.used();
}

// Equal blocks, each within kBlockBytes; a single row that needs more gets it.
inline std::size_t rows_per_block(const Sizes& sizes, const SparseMlpTensors& t) {
    const std::size_t row_bytes = workspace_bytes(sizes, t, kRowsPerTile + 1) / (kRowsPerTile + 1);
    const std::size_t most = std::max<std::size_t>(1, kBlockBytes / row_bytes);
    return divide_up(t.rows, divide_up(t.rows, most));
}

}  // namespace lazyneuron
