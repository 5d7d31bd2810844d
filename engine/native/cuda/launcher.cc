#include "cuda/launcher.h"

#include <algorithm>

#include "cuda/flags.h"

namespace lazyneuron::cuda {
namespace {

constexpr const char* kQuantize =
    "*f32,*f32,*f32,*f32,*f32,*i8,*f32,*f32,*f32,*i32,i32,i32,i32,i32,f32,f32,f32,f32";
constexpr const char* kScreen = "*i8,*i8,*f32,*f32,*f32,*f32,*f32,*f32,*i32,*i8,i32,i32,i32";
constexpr const char* kListMasked = "*i8,*f32,*i32,*i32,i32,i32,i32";
constexpr const char* kListScored = "*f32,*f32,*f32,*i32,*f32,*i32,i32,i32,i32,i32,f32,i32";
constexpr const char* kProject = "*f32,*T,*f32,*f32,*i32,*i32,*f32,i32,i32,i32,i32";

// Blocks of rows are multiples of the largest tile, so that every row of a block is aligned, too.
constexpr std::size_t kRowUnit = 128;
// From so many rows up the screen's large tiles are filled well enough.
constexpr std::size_t kRowsForLargeTiles = 64;
// About so many programs keep a GPU's memory busy.
constexpr std::size_t kPrograms = 1024;

// Rows of a block: equal blocks, each within so much scratch memory.
template <class BlockBytes>
std::size_t rows_per_block(std::size_t rows, std::size_t most_scratch, const BlockBytes& block_bytes) {
    if (rows <= kRowUnit) return rows;
    const std::size_t units = std::max<std::size_t>(1, most_scratch / block_bytes(kRowUnit));
    const std::size_t most = units * kRowUnit;
    return std::min(rows, round_up(divide_up(rows, divide_up(rows, most)), kRowUnit));
}

// The largest of what all blocks need: a short last one may take another way than the others.
template <class BlockBytes>
std::size_t most_bytes(std::size_t rows, std::size_t most_scratch, const BlockBytes& block_bytes) {
    if (rows == 0) return 0;
    const std::size_t block = rows_per_block(rows, most_scratch, block_bytes), rest = rows % block;
    return std::max(block_bytes(block), rest != 0 ? block_bytes(rest) : 0);
}

bool compared_by_magnitude(Activation activation) {
    return activation != Activation::kRelu && activation != Activation::kRelu2;
}

template <class T>
T* at_row(T* array, std::size_t first, std::size_t stride = 1) {
    return array != nullptr ? array + first * stride : nullptr;
}

}  // namespace

SparseDownLauncher::SparseDownLauncher(std::shared_ptr<Modules> modules, const SparseDownOptions& options,
                                       WeightType down, DownPath path, std::size_t most_scratch)
    : modules_(std::move(modules)),
      options_(options),
      most_scratch_(most_scratch),
      down_(*modules_, down, path) {}

std::size_t SparseDownLauncher::block_bytes(const SparseDownCall& call, std::size_t rows) const {
    Carver carve(nullptr);
    Lists(carve, rows, call.neurons);
    down_.count_scratch(carve, {rows, call.neurons, call.columns, 1});
    return carve.used();
}

std::size_t SparseDownLauncher::scratch_bytes(const SparseDownCall& call) const {
    return most_bytes(call.rows, most_scratch_, [&](std::size_t rows) { return block_bytes(call, rows); });
}

void SparseDownLauncher::run(const SparseDownCall& call, void* scratch, CUstream stream) const {
    const std::size_t most =
        rows_per_block(call.rows, most_scratch_, [&](std::size_t rows) { return block_bytes(call, rows); });
    for (std::size_t first = 0; first < call.rows; first += most) {
        const GridSizes sizes{std::min(most, call.rows - first), call.neurons, call.columns, 1};
        Carver carve(static_cast<char*>(scratch));
        const Lists lists(carve, sizes.rows, sizes.neurons);
        Values values{};
        values.values = at_row(call.pre, first, call.neurons);
        values.bias = call.up_bias;
        values.budget = at_row(call.budget, first);
        values.activation = options_.activation;
        values.by_magnitude = compared_by_magnitude(options_.activation);
        down_.select(values, options_, call.down, lists, at_row(call.active, first), nullptr, sizes, stream);
        down_.project(lists, call.down, carve, at_row(call.y, first, call.columns), sizes, stream);
    }
}

SparseMlpLauncher::SparseMlpLauncher(std::shared_ptr<Modules> modules, const SparseMlpOptions& options,
                                     WeightType up, std::optional<WeightType> gate, WeightType down,
                                     DownPath path, std::size_t most_scratch)
    : modules_(std::move(modules)),
      options_(options),
      most_scratch_(most_scratch),
      down_(*modules_, down, path) {
    const auto project = [this](WeightType type) {
        return modules_->load(kernel_name("project", type), signature_for(kProject, type));
    };
    project_up_ = project(up);
    if (gate) project_gate_ = project(*gate);
    if (options.mode != Mode::kCertified) {
        list_scored_ = modules_->load("list_scored", kListScored);
        return;
    }
    quantize_ = modules_->load("quantize_rows", kQuantize);
    screen_few_ = modules_->load("screen.rows16", kScreen);
    screen_many_ = modules_->load("screen.rows128", kScreen);
    list_masked_ = modules_->load("list_masked", kListMasked);
}

// What a block of rows writes down.
struct SparseMlpLauncher::Workspace {
    Workspace(Carver& carve, std::size_t rows, std::size_t neurons, bool gated, const DeviceScreen* screen)
        : lists(carve, rows, neurons) {
        index = carve.take<std::int32_t>(rows * neurons);
        found = carve.take<std::int32_t>(rows);
        values = carve.take<float>(rows * neurons);
        if (gated) factor = carve.take<float>(rows * neurons);
        if (screen == nullptr) return;
        codes = carve.take<std::int8_t>(rows * screen->code_stride());
        inverse = carve.take<float>(rows);
        norm = carve.take<float>(rows);
        residual = carve.take<float>(rows);
        dense = carve.take<std::int32_t>(rows);
        mask = carve.take<std::int8_t>(rows * neurons);
    }

    Lists lists;
    std::int32_t* index;      // [rows][neurons] the candidates
    std::int32_t* found;      // [rows]
    float* values;            // [rows][neurons] of the candidates
    float* factor = nullptr;  // [rows][neurons]
    // Certified mode.
    std::int8_t* codes = nullptr;                                    // [rows][code_stride]
    float *inverse = nullptr, *norm = nullptr, *residual = nullptr;  // [rows]
    std::int32_t* dense = nullptr;                                   // [rows]
    std::int8_t* mask = nullptr;                                     // [rows][neurons]
};

class SparseMlpLauncher::Block {
 public:
    Block(const SparseMlpLauncher& launcher, const SparseMlpCall& call, const DeviceScreen* screen,
          std::size_t first, std::size_t rows, const Workspace& workspace, CUstream stream)
        : l_(launcher),
          c_(call),
          screen_(screen),
          w_(workspace),
          first_(first),
          sizes_{rows, call.neurons, call.columns, 1},
          x_(call.x + first * call.depth),
          budget_(at_row(call.budget, first)),
          stream_(stream) {}

    void run(Carver& rest) {
        const SparseMlpOptions& options = l_.options_;
        Values values{};
        values.values = w_.values;
        values.index = w_.index;
        values.found = w_.found;
        values.budget = budget_;
        values.activation = options.gating.activation;
        if (options.mode == Mode::kCertified) {
            quantize();
            screen();
            list_masked();
        } else {
            list_scored();
        }
        if (options.mode == Mode::kGate) {
            values.factor = w_.factor;  // activated when it was listed
            values.activation = Activation::kIdentity;
        } else if (c_.gate.data != nullptr) {
            project(l_.project_gate_, c_.gate, nullptr, w_.factor);
            values.factor = w_.factor;
        }
        project(l_.project_up_, c_.up, c_.up_bias, w_.values);
        // A gated block's values have the up projection's sign.
        values.by_magnitude = values.factor != nullptr || compared_by_magnitude(values.activation);
        l_.down_.select(values, options.gating, c_.down, w_.lists, at_row(c_.active, first_),
                        at_row(c_.candidates, first_), sizes_, stream_);
        l_.down_.project(w_.lists, c_.down, rest, at_row(c_.y, first_, c_.columns), sizes_, stream_);
    }

 private:
    void start(const Kernel& kernel, Arguments& a, const GridSizes& sizes) const {
        launch(*l_.modules_, kernel, sizes, a, stream_);
    }

    void quantize() const {
        const ScreenTerms& t = screen_->terms();
        const std::size_t flags = flag_if(budget_, kBudget) | flag_if(t.shift, kShift) |
                                  flag_if(t.stretch, kStretch) | flag_if(t.draw, kDraw);
        Arguments a;
        a.pointer(x_).pointer(budget_).pointer(t.shift).pointer(t.stretch).pointer(t.draw).pointer(w_.codes);
        a.pointer(w_.inverse).pointer(w_.norm).pointer(w_.residual).pointer(w_.dense).integer(sizes_.rows);
        a.integer(c_.depth).integer(screen_->code_stride()).integer(flags).real(t.largest_norm);
        start(l_.quantize_, a.real(t.shift_norm).real(t.widest).real(t.underflow), sizes_);
    }

    void screen() const {
        const ScreenTerms& t = screen_->terms();
        Arguments a;
        a.pointer(w_.codes).pointer(screen_->codes()).pointer(t.constant).pointer(t.spread).pointer(t.size);
        a.pointer(w_.inverse).pointer(w_.norm).pointer(w_.residual).pointer(w_.dense).pointer(w_.mask);
        a.integer(sizes_.rows).integer(sizes_.neurons).integer(screen_->code_stride());
        start(sizes_.rows >= kRowsForLargeTiles ? l_.screen_many_ : l_.screen_few_, a, sizes_);
    }

    void list_masked() const {
        Arguments a;
        a.pointer(w_.mask).pointer(budget_).pointer(w_.index).pointer(w_.found).integer(sizes_.rows);
        start(l_.list_masked_, a.integer(sizes_.neurons).integer(flag_if(budget_, kBudget)), sizes_);
    }

    void list_scored() const {
        const SparseMlpOptions& options = l_.options_;
        const bool gate_mode = options.mode == Mode::kGate;
        Arguments a;
        a.pointer(at_row(c_.scores, first_, c_.neurons)).pointer(x_).pointer(budget_).pointer(w_.index);
        a.pointer(w_.factor).pointer(w_.found).integer(sizes_.rows).integer(sizes_.neurons).integer(c_.depth);
        a.integer(static_cast<std::size_t>(options.gating.activation)).real(options.score_threshold);
        start(l_.list_scored_, a.integer(flag_if(budget_, kBudget) | flag_if(gate_mode, kGateMode)), sizes_);
    }

    // Programs of a row take its list by turns, so that their number changes no value.
    void project(const Kernel& kernel, const NeuronWeights& weights, const float* bias, float* values) const {
        GridSizes sizes = sizes_;
        const std::size_t strips = blocks(GridRule::kNeuronTiles, *kernel.spec, sizes);
        sizes.splits = std::clamp<std::size_t>(divide_up(kPrograms, sizes.rows), 1, strips);
        Arguments a;
        a.pointer(x_).pointer(weights.data).pointer(weights.scale).pointer(bias).pointer(w_.index);
        a.pointer(w_.found).pointer(values).integer(sizes.rows).integer(sizes.neurons).integer(c_.depth);
        start(kernel, a.integer(flag_if(weights.scale, kScale) | flag_if(bias, kBias)), sizes);
    }

    const SparseMlpLauncher& l_;
    const SparseMlpCall& c_;
    const DeviceScreen* const screen_;
    const Workspace& w_;
    const std::size_t first_;
    const GridSizes sizes_;
    const float* const x_;
    const float* const budget_;
    const CUstream stream_;
};

std::size_t SparseMlpLauncher::block_bytes(const SparseMlpCall& call, const DeviceScreen* screen,
                                           std::size_t rows) const {
    Carver carve(nullptr);
    const bool gated = options_.mode == Mode::kGate || call.gate.data != nullptr;
    Workspace(carve, rows, call.neurons, gated, screen);
    down_.count_scratch(carve, {rows, call.neurons, call.columns, 1});
    return carve.used();
}

std::size_t SparseMlpLauncher::scratch_bytes(const SparseMlpCall& call, const DeviceScreen* screen) const {
    return most_bytes(call.rows, most_scratch_,
                      [&](std::size_t rows) { return block_bytes(call, screen, rows); });
}

void SparseMlpLauncher::run(const SparseMlpCall& call, const DeviceScreen* screen, void* scratch,
                            CUstream stream) const {
    const std::size_t most = rows_per_block(
        call.rows, most_scratch_, [&](std::size_t rows) { return block_bytes(call, screen, rows); });
    const bool gated = options_.mode == Mode::kGate || call.gate.data != nullptr;
    for (std::size_t first = 0; first < call.rows; first += most) {
        const std::size_t rows = std::min(most, call.rows - first);
        Carver carve(static_cast<char*>(scratch));
        const Workspace workspace(carve, rows, call.neurons, gated, screen);
        Block(*this, call, screen, first, rows, workspace, stream).run(carve);
    }
}

}  // namespace lazyneuron::cuda
