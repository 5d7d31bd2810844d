// Whole calls of SparseDown and SparseMLP, by the CPU's kernels and by the GPU's launcher on the stand-in.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "cuda/launcher.h"
#include "tests/cuda_weights.h"

namespace lazyneuron::testing {

struct Serial final : ParallelFor {
    void run(std::size_t total, Work work, void* context) const override {
        for (std::size_t i = 0; i < total; ++i) work(context, i);
    }
};

// Arrays in the stand-in's memory, each an allocation of its own.
class Device {
 public:
    explicit Device(StandIn& stand_in) : stand_in_(stand_in) {}
    ~Device() {
        for (void* memory : all_) stand_in_.release(memory);
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    void* copy(const void* data, std::size_t bytes) {
        all_.push_back(stand_in_.allocate(bytes));
        std::memcpy(all_.back(), data, bytes);
        return all_.back();
    }
    template <class T>
    T* copy(const std::vector<T>& values) {
        return values.empty() ? nullptr : static_cast<T*>(copy(values.data(), values.size() * sizeof(T)));
    }

 private:
    StandIn& stand_in_;
    std::vector<void*> all_;
};

// A matrix in one of the weights' types, and as floats. Its numbers are multiples of an eighth, which every
// type holds: int8 with a scale of an eighth a neuron.
struct Matrix {
    Matrix(std::size_t neurons, std::size_t width, WeightType weight_type, unsigned seed)
        : type(weight_type), floats(random_values(neurons * width, 0.5, seed, 0.125f)) {
        const std::size_t size = element_size(type);
        bytes.resize(floats.size() * size);
        for (std::size_t i = 0; i < floats.size(); ++i) {
            const std::uint16_t half =
                type == WeightType::kFloat16 ? float_to_half(floats[i]) : float_to_bfloat(floats[i]);
            const auto code = static_cast<std::int8_t>(floats[i] * 8.0f);
            const void* const from = type == WeightType::kFloat32 ? static_cast<const void*>(&floats[i])
                                     : type == WeightType::kInt8  ? static_cast<const void*>(&code)
                                                                  : &half;
            std::memcpy(bytes.data() + i * size, from, size);
        }
        if (type == WeightType::kInt8) scale.assign(neurons, 0.125f);
    }

    // For the CPU, which has no bfloat16.
    WeightType cpu_type() const { return type == WeightType::kBFloat16 ? WeightType::kFloat32 : type; }
    const void* cpu_data() const {
        return type == WeightType::kBFloat16 ? static_cast<const void*>(floats.data()) : bytes.data();
    }
    const float* scales() const { return scale.empty() ? nullptr : scale.data(); }

    WeightType type;
    std::vector<float> floats, scale;
    std::vector<char> bytes;
};

struct Answer {
    Answer(std::size_t rows, std::size_t columns)
        : y(rows * columns, -7.0f), active(rows, -7), candidates(rows, -7) {}
    std::vector<float> y;
    std::vector<std::int32_t> active, candidates;
};

struct ProblemSizes {
    std::size_t rows, depth, neurons, columns;
};

struct Problem {
    Problem(const ProblemSizes& all, const SparseMlpOptions& given, WeightType up_type, WeightType down_type,
            std::optional<WeightType> gate_type)
        : sizes(all),
          options(given),
          x(random_values(all.rows * all.depth, 0.5, 1, 0.125f)),
          scores(random_values(all.rows * all.neurons, 0.2, 2, 0.125f)),
          up_bias(random_values(all.neurons, 0.3, 3, 0.125f)),
          down_bias(random_values(all.columns, 0.5, 4)),
          up(all.neurons, all.depth, up_type, 5),
          down(all.neurons, all.columns, down_type, 6) {
        if (gate_type) gate.emplace(all.neurons, all.depth, *gate_type, 7);
    }

    // Rows that are not like the others: a NaN, an infinity, every kind of budget, no candidate.
    void make_strange() {
        budget.assign(sizes.rows, 1.0f);
        const auto row = [this](std::size_t r) { return r % sizes.rows; };
        x[row(0) * sizes.depth] = std::nanf("");
        x[row(3) * sizes.depth + sizes.depth - 1] = INFINITY;
        budget[row(1)] = 0.0f;
        budget[row(2)] = std::nanf("");
        budget[row(4)] = 0.3f;
        budget[row(5)] = 7.0f;
        std::fill_n(scores.begin() + static_cast<std::ptrdiff_t>(row(6) * sizes.neurons), sizes.neurons,
                    -9.0f);
        scores[row(7) * sizes.neurons] = std::nanf("");
        std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(row(8) * sizes.depth), sizes.depth, 0.0f);
    }

    bool certified() const { return options.mode == Mode::kCertified; }
    const float* budgets() const { return budget.empty() ? nullptr : budget.data(); }

    ProblemSizes sizes;
    SparseMlpOptions options;
    std::vector<float> x, scores, up_bias, down_bias, budget;
    std::vector<float> shift, screen_scale;  // empty: none
    float miss_probability = 0.0f;
    Matrix up, down;
    std::optional<Matrix> gate;
};

// The down projection packed as the CPU wants it.
struct PackedDown {
    explicit PackedDown(const Problem& p)
        : layout(p.sizes.neurons, p.sizes.columns, p.down.cpu_type()), packed(layout.bytes()) {
        for (std::size_t i = 0; i < layout.panels(); ++i)
            layout.pack_panel(i, p.down.cpu_data(), packed.data());
    }
    PanelLayout layout;
    AlignedBuffer packed;
};

inline Screen make_screen(const Problem& p, bool for_cpu) {
    ScreenSource source{};
    source.up = for_cpu ? p.up.cpu_data() : p.up.bytes.data();
    source.type = for_cpu ? p.up.cpu_type() : p.up.type;
    source.neurons = p.sizes.neurons;
    source.depth = p.sizes.depth;
    source.up_scale = p.up.scales();
    source.up_bias = p.up_bias.data();
    source.shift = p.shift.empty() ? nullptr : p.shift.data();
    source.scale = p.screen_scale.empty() ? nullptr : p.screen_scale.data();
    source.activation = p.options.gating.activation;
    source.threshold = p.options.gating.threshold;
    source.miss_probability = p.miss_probability;
    return {best_instruction_set().kernels, source};
}

inline Answer mlp_on_cpu(const Problem& p) {
    Answer out(p.sizes.rows, p.sizes.columns);
    const PackedDown down(p);
    const Screen screen = p.certified() ? make_screen(p, true) : Screen();
    SparseMlpTensors t{};
    t.rows = p.sizes.rows;
    t.depth = p.sizes.depth;
    t.x = p.x.data();
    t.up = {p.up.cpu_data(), p.up.cpu_type(), p.up.scales()};
    if (p.gate) t.gate = {p.gate->cpu_data(), p.gate->cpu_type(), p.gate->scales()};
    t.up_bias = p.up_bias.data();
    t.scores = p.certified() ? nullptr : p.scores.data();
    t.screen = p.certified() ? &screen : nullptr;
    t.layout = down.layout;
    t.packed = down.packed.data();
    t.finite = true;
    t.down_scale = p.down.scales();
    t.down_bias = p.down_bias.data();
    t.budget = p.budgets();
    t.y = out.y.data();
    t.active = out.active.data();
    t.candidates = out.candidates.data();
    const AlignedBuffer scratch(sparse_mlp_scratch_bytes(p.options, t));
    sparse_mlp(best_instruction_set().kernels, p.options, t, scratch.data(), Serial());
    return out;
}

// SparseDown on the scores, as if they were the up projection's values.
inline Answer down_on_cpu(const Problem& p) {
    Answer out(p.sizes.rows, p.sizes.columns);
    const PackedDown down(p);
    SparseDownTensors t{};
    t.rows = p.sizes.rows;
    t.pre = p.scores.data();
    t.layout = down.layout;
    t.packed = down.packed.data();
    t.finite = true;
    t.up_bias = p.up_bias.data();
    t.down_bias = p.down_bias.data();
    t.budget = p.budgets();
    t.scale = p.down.scales();
    t.y = out.y.data();
    t.active = out.active.data();
    const AlignedBuffer scratch(sparse_down_scratch_bytes(t.rows, p.sizes.neurons));
    sparse_down(best_instruction_set().kernels, p.options.gating, t, scratch.data(), Serial());
    return out;
}

// What both operators do around a launch: the context, the answer's memory, the scratch.
template <class Run>
Answer on_gpu(StandIn& stand_in, cuda::Modules& modules, const Problem& p, const Run& run) {
    const cuda::CurrentContext current(modules.driver(), modules.device(), modules.context());
    Answer out(p.sizes.rows, p.sizes.columns);
    Device device(stand_in);
    const cuda::DownWeights down{device.copy(p.down.bytes), device.copy(p.down.scale),
                                 device.copy(p.down_bias)};
    float* const y = device.copy(out.y);
    std::int32_t* const active = device.copy(out.active);
    std::int32_t* const candidates = device.copy(out.candidates);
    run(device, down, y, active, candidates);
    std::copy_n(y, out.y.size(), out.y.begin());
    std::copy_n(active, out.active.size(), out.active.begin());
    std::copy_n(candidates, out.candidates.size(), out.candidates.begin());
    return out;
}

inline Answer mlp_on_gpu(StandIn& stand_in, const std::shared_ptr<cuda::Modules>& modules, const Problem& p,
                         cuda::DownPath path, std::size_t most_scratch = cuda::kScratchBytes) {
    return on_gpu(stand_in, *modules, p,
                  [&](Device& device, const cuda::DownWeights& down, float* y, std::int32_t* active,
                      std::int32_t* candidates) {
                      const std::optional<WeightType> gate =
                          p.gate ? std::optional(p.gate->type) : std::nullopt;
                      const cuda::SparseMlpLauncher launcher(modules, p.options, p.up.type, gate, p.down.type,
                                                             path, most_scratch);
                      std::optional<cuda::DeviceScreen> screen;
                      if (p.certified()) screen.emplace(*modules, stand_in, make_screen(p, false));
                      cuda::SparseMlpCall c{};
                      c.rows = p.sizes.rows;
                      c.depth = p.sizes.depth;
                      c.neurons = p.sizes.neurons;
                      c.columns = p.sizes.columns;
                      c.x = device.copy(p.x);
                      c.up = {device.copy(p.up.bytes), p.up.type, device.copy(p.up.scale)};
                      if (p.gate)
                          c.gate = {device.copy(p.gate->bytes), p.gate->type, device.copy(p.gate->scale)};
                      c.up_bias = device.copy(p.up_bias);
                      c.scores = p.certified() ? nullptr : device.copy(p.scores);
                      c.budget = device.copy(p.budget);
                      c.down = down;
                      c.y = y;
                      c.active = active;
                      c.candidates = candidates;
                      const cuda::DeviceScreen* const used = screen ? &*screen : nullptr;
                      std::vector<char> none(launcher.scratch_bytes(c, used));
                      launcher.run(c, used, device.copy(none), stand_in.stream);
                  });
}

inline Answer down_on_gpu(StandIn& stand_in, const std::shared_ptr<cuda::Modules>& modules, const Problem& p,
                          cuda::DownPath path, std::size_t most_scratch = cuda::kScratchBytes) {
    return on_gpu(
        stand_in, *modules, p,
        [&](Device& device, const cuda::DownWeights& down, float* y, std::int32_t* active, std::int32_t*) {
            const cuda::SparseDownLauncher launcher(modules, p.options.gating, p.down.type, path,
                                                    most_scratch);
            cuda::SparseDownCall c{};
            c.rows = p.sizes.rows;
            c.neurons = p.sizes.neurons;
            c.columns = p.sizes.columns;
            c.pre = device.copy(p.scores);
            c.up_bias = device.copy(p.up_bias);
            c.budget = device.copy(p.budget);
            c.down = down;
            c.y = y;
            c.active = active;
            std::vector<char> none(launcher.scratch_bytes(c));
            launcher.run(c, device.copy(none), stand_in.stream);
        });
}

// Equal counts, and outputs as near as float32 sums in different orders are, by a row's largest.
inline void check_same(const Problem& p, const Answer& got, const Answer& expected, bool mlp,
                       const std::string& context) {
    for (std::size_t r = 0; r < p.sizes.rows; ++r) {
        const std::string row = context + ", row " + std::to_string(r);
        CHECK(got.active[r] == expected.active[r], row + ": " + std::to_string(got.active[r]) +
                                                       " instead of " + std::to_string(expected.active[r]));
        if (mlp && p.certified()) {
            // The screens' codes differ, so that their candidates may; none of the active ones is missed.
            CHECK(got.candidates[r] >= got.active[r], row);
            CHECK(got.candidates[r] <= static_cast<std::int32_t>(p.sizes.neurons), row);
            CHECK((got.candidates[r] == 0) <= (got.active[r] == 0), row);
        } else if (mlp) {
            CHECK(got.candidates[r] == expected.candidates[r],
                  row + ": " + std::to_string(got.candidates[r]) + " candidates instead of " +
                      std::to_string(expected.candidates[r]));
        }
        const float* const a = got.y.data() + r * p.sizes.columns;
        const float* const b = expected.y.data() + r * p.sizes.columns;
        float largest = 0.0f;
        for (std::size_t c = 0; c < p.sizes.columns; ++c) largest = std::max(largest, std::fabs(b[c]));
        for (std::size_t c = 0; c < p.sizes.columns; ++c) {
            CHECK(same(a[c], b[c]) || std::fabs(a[c] - b[c]) <= 1e-5f * largest,
                  row + ", column " + std::to_string(c) + ": " + std::to_string(a[c]) + " instead of " +
                      std::to_string(b[c]));
        }
    }
}

}  // namespace lazyneuron::testing
