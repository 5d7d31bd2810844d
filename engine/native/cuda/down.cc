#include "cuda/down.h"

#include <cstdlib>
#include <stdexcept>

#include "cuda/flags.h"

namespace lazyneuron::cuda {
namespace {

constexpr const char* kSelect =
    "*f32,*f32,*i32,*i32,*f32,*f32,*f32,*i32,*f32,*i32,*i32,*i32,i32,i32,i32,i32,f32,i32";
constexpr const char* kDown = "*i32,*f32,*i32,*T,*f32,*f32,i32,i32,i32,i32,i32";
constexpr const char* kReduce = "*f32,*i32,*f32,*f32,i32,i32,i32,i32";
constexpr const char* kUnion = "*i32,*f32,*i32,*i32,*i32,*f32,i32,i32";
constexpr const char* kDownTile = "*i32,*i32,*f32,*i32,*T,*f32,*f32,i32,i32,i32,i32";

// A row's sum is always made of so many parts, added in their order, by one program or by one a part: the
// bits are the same.
constexpr std::size_t kParts = 8;
// With fewer programs than these a GPU's multiprocessors are not all busy.
constexpr std::size_t kFewestPrograms = 512;

constexpr const char* kTypeNames[] = {"f32", "f16", "i8", "bf16"};  // in the order of WeightType

}  // namespace

DownPath choose_down_path() {
    const char* forced = std::getenv("LAZYNEURON_GPU_DOWN");
    const std::string name = forced != nullptr ? forced : "";
    if (name.empty() || name == "rows") return DownPath::kRows;
    if (name == "tiles") return DownPath::kTiles;
    throw std::invalid_argument("the environment variable LAZYNEURON_GPU_DOWN is '" + name +
                                "', expected rows or tiles");
}

std::string kernel_name(const char* kernel, WeightType type) {
    return std::string(kernel) + "." + kTypeNames[static_cast<int>(type)];
}

std::string signature_for(std::string signature, WeightType type) {
    return signature.replace(signature.find('T'), 1, kTypeNames[static_cast<int>(type)]);
}

DownLauncher::DownLauncher(Modules& modules, WeightType type, DownPath path)
    : modules_(modules), path_(path) {
    select_ = modules.load("select", kSelect);
    if (path == DownPath::kTiles) {
        union_ = modules.load("union_lists", kUnion);
        down_ = modules.load(kernel_name("down_tile", type), signature_for(kDownTile, type));
    } else {
        down_ = modules.load(kernel_name("down", type), signature_for(kDown, type));
        reduce_ = modules.load("reduce_down", kReduce);
    }
}

void DownLauncher::select(const Values& v, const SparseDownOptions& options, const DownWeights& down,
                          const Lists& lists, std::int32_t* active, std::int32_t* candidates,
                          const GridSizes& sizes, CUstream stream) const {
    const std::size_t flags = flag_if(v.budget, kBudget) | flag_if(v.bias, kBias) |
                              flag_if(down.scale, kDownScale) | flag_if(v.index, kIndex) |
                              flag_if(v.factor, kFactor) | flag_if(v.by_magnitude, kByMagnitude);
    Arguments a;
    a.pointer(v.values).pointer(v.factor).pointer(v.index).pointer(v.found).pointer(v.bias);
    a.pointer(down.scale).pointer(v.budget).pointer(lists.kept).pointer(lists.coefficient);
    a.pointer(lists.counts).pointer(active).pointer(candidates).integer(sizes.rows).integer(sizes.neurons);
    a.integer(options.top_k).integer(static_cast<std::size_t>(v.activation)).real(options.threshold);
    launch(modules_, select_, sizes, a.integer(flags), stream);
}

// Both kernels of a way take its scratch memory in the same order.
struct DownLauncher::Union {
    Union(Carver& carve, const GridSizes& sizes, int block_rows)
        : index(carve.take<std::int32_t>(divide_up(sizes.rows, static_cast<std::size_t>(block_rows)) *
                                         sizes.neurons)),
          count(carve.take<std::int32_t>(divide_up(sizes.rows, static_cast<std::size_t>(block_rows)))),
          coefficient(carve.take<float>(sizes.rows * sizes.neurons)) {}
    std::int32_t* index;
    std::int32_t* count;
    float* coefficient;
};

bool DownLauncher::in_parts(const GridSizes& sizes) const {
    return blocks(GridRule::kRows, *down_.spec, sizes) * blocks(GridRule::kColumnTiles, *down_.spec, sizes) <
           kFewestPrograms;
}

void DownLauncher::count_scratch(Carver& scratch, const GridSizes& sizes) const {
    if (path_ == DownPath::kTiles) {
        Union(scratch, sizes, union_.spec->block_rows);
    } else if (in_parts(sizes)) {
        scratch.take<float>(kParts * sizes.rows * sizes.columns);
    }
}

void DownLauncher::project(const Lists& lists, const DownWeights& down, Carver& scratch, float* y,
                           GridSizes sizes, CUstream stream) const {
    if (path_ == DownPath::kTiles) {
        project_tiles(lists, down, scratch, y, sizes, stream);
    } else {
        project_rows(lists, down, scratch, y, sizes, stream);
    }
}

void DownLauncher::project_rows(const Lists& lists, const DownWeights& down, Carver& scratch, float* y,
                                GridSizes sizes, CUstream stream) const {
    const bool parts = in_parts(sizes);
    const float* const partial = parts ? scratch.take<float>(kParts * sizes.rows * sizes.columns) : nullptr;
    const std::size_t flags = flag_if(down.bias, kDownBias);
    sizes.splits = parts ? kParts : 1;
    Arguments a;
    a.pointer(lists.kept).pointer(lists.coefficient).pointer(lists.counts).pointer(down.data);
    a.pointer(down.bias).pointer(parts ? partial : y).integer(sizes.rows).integer(sizes.neurons);
    a.integer(sizes.columns).integer(sizes.splits).integer(flags | flag_if(parts, kPartial));
    launch(modules_, down_, sizes, a, stream);
    if (!parts) return;
    Arguments r;
    r.pointer(partial).pointer(lists.counts).pointer(down.bias).pointer(y).integer(sizes.rows);
    r.integer(sizes.columns).integer(sizes.splits).integer(flags);
    launch(modules_, reduce_, sizes, r, stream);
}

void DownLauncher::project_tiles(const Lists& lists, const DownWeights& down, Carver& scratch, float* y,
                                 const GridSizes& sizes, CUstream stream) const {
    const Union all(scratch, sizes, union_.spec->block_rows);
    Arguments u;
    u.pointer(lists.kept).pointer(lists.coefficient).pointer(lists.counts).pointer(all.index);
    u.pointer(all.count).pointer(all.coefficient).integer(sizes.rows).integer(sizes.neurons);
    launch(modules_, union_, sizes, u, stream);
    Arguments a;
    a.pointer(all.index).pointer(all.count).pointer(all.coefficient).pointer(lists.counts);
    a.pointer(down.data).pointer(down.bias).pointer(y).integer(sizes.rows).integer(sizes.neurons);
    a.integer(sizes.columns).integer(flag_if(down.bias, kDownBias));
    launch(modules_, down_, sizes, a, stream);
}

}  // namespace lazyneuron::cuda
