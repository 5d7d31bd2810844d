// The GPU's operators below ONNX Runtime, on a stand-in for the driver that runs each kernel's meaning on the
// host: whole calls agree with the CPU's, every launch keeps to the table and the device, and nothing is
// leaked.
//
// Arguments: folders with a table of kernels and images.
#include <algorithm>
#include <list>
#include <thread>

#include "tests/cuda_problem.h"

using namespace lazyneuron;
using namespace lazyneuron::testing;

namespace {

constexpr WeightType kTypes[] = {WeightType::kFloat32, WeightType::kFloat16, WeightType::kInt8,
                                 WeightType::kBFloat16};
constexpr Activation kActivations[] = {Activation::kRelu,     Activation::kRelu2, Activation::kGelu,
                                       Activation::kGeluTanh, Activation::kSilu,  Activation::kIdentity};
constexpr const char* kModes[] = {"certified", "predictor", "gate"};

// A stand-in with loaded modules; tells of every wrong launch when it goes.
struct Gpu {
    explicit Gpu(const cuda::KernelTable& table) : stand_in(table) {
        stand_in.stream = reinterpret_cast<CUstream>(&stand_in);  // any address that is not null
        modules = std::make_shared<cuda::Modules>(stand_in.driver(),
                                                  cuda::describe_device(stand_in.driver(), 0), table);
    }
    ~Gpu() {
        modules.reset();
        for (const std::string& what : stand_in.wrong) CHECK(false, what);
        CHECK(stand_in.leaks().empty(), stand_in.leaks());
    }
    bool launched(const std::string& name) const {
        return std::find(stand_in.launched.begin(), stand_in.launched.end(), name) != stand_in.launched.end();
    }
    StandIn stand_in;
    std::shared_ptr<cuda::Modules> modules;
};

SparseMlpOptions options_of(Mode mode, Activation activation, std::size_t top_k) {
    SparseMlpOptions options;
    options.mode = mode;
    options.gating.activation = activation;
    options.gating.top_k = top_k;
    options.gating.threshold =
        activation == Activation::kRelu || activation == Activation::kRelu2 ? 0.0f : 0.01f;
    options.score_threshold = mode == Mode::kGate ? 0.0f : 0.5f;
    return options;
}

void test_every_mode_and_type(const cuda::KernelTable& table) {
    std::size_t turn = 0;
    for (const Mode mode : {Mode::kCertified, Mode::kPredictor, Mode::kGate}) {
        for (const WeightType up : kTypes) {
            for (const std::size_t rows : {1, 11, 66}) {
                for (const bool tiles : {false, true}) {
                    ++turn;
                    const Activation activation = kActivations[turn % (mode == Mode::kCertified ? 2 : 6)];
                    const WeightType down = kTypes[turn % 4];
                    std::optional<WeightType> gate;
                    if (mode == Mode::kPredictor && turn % 2 == 0) gate = kTypes[turn / 2 % 4];
                    Problem p({rows, 21, 140, 66}, options_of(mode, activation, turn % 3 == 0 ? 9 : 0), up,
                              down, gate);
                    if (turn % 5 < 3 && rows > 8) p.make_strange();
                    const std::string context = std::string(kModes[static_cast<int>(mode)]) + ", turn " +
                                                std::to_string(turn) + ", " + std::to_string(rows) + " rows";
                    Gpu gpu(table);
                    const auto path = tiles ? cuda::DownPath::kTiles : cuda::DownPath::kRows;
                    check_same(p, mlp_on_gpu(gpu.stand_in, gpu.modules, p, path), mlp_on_cpu(p), true,
                               context);
                    CHECK(gpu.launched(cuda::kernel_name("project", up)), context);
                    CHECK(gpu.launched(cuda::kernel_name(tiles ? "down_tile" : "down", down)), context);
                    check_same(p, down_on_gpu(gpu.stand_in, gpu.modules, p, path), down_on_cpu(p), false,
                               "SparseDown, " + context);
                }
            }
        }
    }
}

void test_the_screens_coordinates(const cuda::KernelTable& table) {
    for (const float miss : {0.0f, 1e-6f}) {
        Problem p({9, 70, 130, 5}, options_of(Mode::kCertified, Activation::kRelu, 0), WeightType::kFloat32,
                  WeightType::kFloat32, std::nullopt);
        p.shift = random_values(70, 0.5, 11);
        p.screen_scale = random_values(70, 0.5, 12);
        p.miss_probability = miss;
        p.make_strange();
        Gpu gpu(table);
        check_same(p, mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows), mlp_on_cpu(p), true,
                   "with shift and scale");
    }
}

// Most neurons of a block are below zero: the screen must leave them out, or it is of no use.
void test_the_screen_leaves_out(const cuda::KernelTable& table) {
    Problem p({70, 64, 300, 5}, options_of(Mode::kCertified, Activation::kRelu, 0), WeightType::kFloat16,
              WeightType::kFloat32, std::nullopt);
    for (float& bias : p.up_bias) bias = -90.0f;
    Gpu gpu(table);
    const Answer got = mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows);
    check_same(p, got, mlp_on_cpu(p), true, "mostly inactive");
    std::int64_t candidates = 0;
    for (const std::int32_t count : got.candidates) candidates += count;
    CHECK(candidates < 70 * 300 / 4, std::to_string(candidates) + " candidates");
}

// Scratch memory for a block at a time, and a row's bits do not depend on the block.
void test_blocks_of_rows(const cuda::KernelTable& table) {
    for (const Mode mode : {Mode::kCertified, Mode::kGate}) {
        Problem p({300, 20, 70, 130}, options_of(mode, Activation::kRelu, 0), WeightType::kFloat32,
                  WeightType::kFloat16, std::nullopt);
        p.make_strange();
        Gpu gpu(table);
        const Answer whole = mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows);
        const std::size_t launches = gpu.stand_in.launched.size();
        CHECK(!gpu.launched("reduce_down"), "300 rows fill the device without parts");
        const Answer blocks = mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows, 1);
        CHECK(gpu.stand_in.launched.size() - launches > 2 * launches, "three blocks");
        CHECK(gpu.launched("reduce_down"), "the last block has 44 rows");
        check_same(p, whole, mlp_on_cpu(p), true, "one block");
        for (std::size_t i = 0; i < whole.y.size(); ++i)
            CHECK(same(whole.y[i], blocks.y[i]), std::to_string(i));
        CHECK(whole.active == blocks.active && whole.candidates == blocks.candidates, "counts of blocks");
        const Answer down = down_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kTiles, 1);
        check_same(p, down, down_on_cpu(p), false, "SparseDown in blocks");
    }
}

void test_no_rows(const cuda::KernelTable& table) {
    Problem p({0, 8, 8, 8}, options_of(Mode::kGate, Activation::kRelu, 0), WeightType::kFloat32,
              WeightType::kFloat32, std::nullopt);
    Gpu gpu(table);
    mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows);
    down_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kTiles);
    CHECK(gpu.stand_in.launched.empty(), "nothing to do");
}

// Every call of every function of the driver fails once. Each failure is told in words, and nothing is left
// behind.
void test_every_failure(const cuda::KernelTable& table) {
    const Problem p({5, 20, 40, 9}, options_of(Mode::kCertified, Activation::kRelu, 3), WeightType::kFloat32,
                    WeightType::kFloat16, std::nullopt);
    const char* const functions[] = {"cuDeviceGet",        "cuDeviceGetName",          "cuDeviceGetAttribute",
                                     "cuDeviceTotalMem",   "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent",
                                     "cuModuleLoadDataEx", "cuModuleGetFunction",      "cuMemcpyHtoD",
                                     "cuCtxSynchronize",   "cuLaunchKernel",           "allocate"};
    for (const char* function : functions) {
        int n = 0;
        for (;; ++n) {
            StandIn stand_in(table);
            stand_in.fail(function, n, 719);
            std::shared_ptr<cuda::Modules> modules;
            const std::string message = message_of([&] {
                modules = std::make_shared<cuda::Modules>(stand_in.driver(),
                                                          cuda::describe_device(stand_in.driver(), 0), table);
                mlp_on_gpu(stand_in, modules, p, cuda::DownPath::kRows);
            });
            const bool reached = stand_in.calls(function) > n;
            const std::string context = std::string(function) + " " + std::to_string(n) + ": " + message;
            if (reached) {
                CHECK(contains(message, "CUDA_ERROR_OF_THE_TEST (its description)"), context);
                CHECK(contains(message, "CUDA device 0") || std::string(function) == "allocate", context);
                if (std::string(function) == "cuLaunchKernel") {
                    CHECK(contains(message, "CUDA device 0 (Stand-in): launching kernel '"), context);
                    const std::size_t at = static_cast<std::size_t>(n);
                    CHECK(stand_in.launched.size() == at, context);
                }
            }
            modules.reset();
            // A failure in the modules' destructor has no one to tell; they go with the context.
            const bool at_the_end = !reached && stand_in.calls(function) > n;
            CHECK(at_the_end || stand_in.leaks().empty(), context + " leaks " + stand_in.leaks());
            if (!reached) break;
        }
        CHECK(n > 0, std::string(function) + " is never called");
    }
}

void test_an_unnamed_error(const cuda::KernelTable& table) {
    StandIn stand_in(table);
    stand_in.fail("cuDeviceGetCount", 0, 999);
    CHECK(message_of([&] { cuda::device_count(stand_in.driver()); }) ==
              "counting the CUDA devices: CUDA error 999",
          "an error that the driver has no name for");
    stand_in.forget_calls();
    stand_in.fail("cuDeviceGetCount", 0, CUDA_ERROR_NO_DEVICE);
    CHECK(cuda::device_count(stand_in.driver()) == 0, "no device is no error");
}

void test_kernels_are_loaded_once(const cuda::KernelTable& table) {
    Gpu gpu(table);
    const Problem p({5, 20, 40, 9}, options_of(Mode::kCertified, Activation::kRelu, 0), WeightType::kFloat32,
                    WeightType::kFloat16, std::nullopt);
    mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows);
    const int loaded = gpu.stand_in.calls("cuModuleLoadDataEx");
    mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows);
    CHECK(gpu.stand_in.calls("cuModuleLoadDataEx") == loaded, "loaded again");
}

// Calls of several threads, as of a session's concurrent runs, share modules.
void test_threads(const cuda::KernelTable& table) {
    const Problem p({9, 20, 40, 9}, options_of(Mode::kCertified, Activation::kRelu, 3), WeightType::kFloat32,
                    WeightType::kFloat16, std::nullopt);
    const Answer expected = mlp_on_cpu(p);
    Gpu gpu(table);
    std::vector<Answer> answers(3, Answer(0, 0));
    std::vector<std::thread> threads;
    for (Answer& answer : answers) {
        threads.emplace_back(
            [&] { answer = mlp_on_gpu(gpu.stand_in, gpu.modules, p, cuda::DownPath::kRows); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Answer& answer : answers) check_same(p, answer, expected, true, "threads");
}

// One set of modules for a device, whoever asks, for as long as somebody has it.
void test_modules_are_shared() {
    static const cuda::KernelTable table = cuda::KernelTable::read(cuda::compiled_folder());
    StandIn stand_in(table);
    const auto first = cuda::Modules::shared(stand_in.driver(), 0);
    CHECK(cuda::Modules::shared(stand_in.driver(), 0) == first, "shared");
    CHECK(message_of([&] { cuda::Modules::shared(stand_in.driver(), 1); }) ==
              "describing CUDA device 1: CUDA_ERROR_OF_THE_TEST (its description)",
          "there is one device");
    stand_in.device_count = 2;
    stand_in.compute_capability = 7;
    CHECK(message_of([&] { cuda::Modules::shared(stand_in.driver(), 1); }) ==
              "CUDA device 1 (Stand-in) has compute capability 7.6, expected 8.0 or later",
          "an old device");
}

// What no kernel was compiled for is refused before the driver sees it.
void test_refusals(const cuda::KernelTable& table) {
    Gpu gpu(table);
    const cuda::CurrentContext current(gpu.modules->driver(), gpu.modules->device(), gpu.modules->context());
    const cuda::SparseDownLauncher launcher(gpu.modules, {}, WeightType::kFloat32, cuda::DownPath::kRows);
    Device device(gpu.stand_in);
    const std::vector<float> some(64, 1.0f);
    cuda::SparseDownCall c{};
    c.rows = 1;
    c.neurons = 4;
    c.columns = 4;
    c.pre = device.copy(some) + 1;
    c.down = {device.copy(some), nullptr, nullptr};
    c.y = device.copy(some);
    c.active = device.copy(std::vector<std::int32_t>(4));
    void* const scratch = device.copy(std::vector<char>(launcher.scratch_bytes(c)));
    std::string message = message_of([&] { launcher.run(c, scratch, gpu.stand_in.stream); });
    CHECK(
        contains(message, "GPU kernel 'select': its argument 0 lies at an address that is no multiple of 16"),
        message);
    c.pre = device.copy(some);
    c.neurons = std::size_t{1} << 31;
    message = message_of([&] { launcher.run(c, scratch, gpu.stand_in.stream); });
    CHECK(contains(message, "GPU kernel 'select': a size is 2^31 or more"), message);
    message = message_of([&] { gpu.modules->load("select", "*f32"); });
    CHECK(message.empty(), "it is loaded already");
    message = message_of([&] { gpu.modules->load("union_lists", "*f32,i32"); });
    CHECK(contains(message, "the GPU kernel 'union_lists' takes *i32,") &&
              contains(message, "expected *f32,i32"),
          message);
    message = message_of([&] { gpu.modules->load("no.such", "*f32"); });
    CHECK(contains(message, "has no kernel 'no.such'"), message);
    CHECK(gpu.stand_in.launched.empty(), "nothing was launched");
}

}  // namespace

int main(int count, char** arguments) {
    std::list<cuda::KernelTable> tables;  // each stays at its address
    for (int i = 1; i < count; ++i) {
        const cuda::KernelTable& table = tables.emplace_back(cuda::KernelTable::read(arguments[i]));
        test_every_mode_and_type(table);
        test_the_screens_coordinates(table);
        test_the_screen_leaves_out(table);
        test_blocks_of_rows(table);
        test_no_rows(table);
        test_every_failure(table);
        test_an_unnamed_error(table);
        test_kernels_are_loaded_once(table);
        test_threads(table);
        test_refusals(table);
    }
    test_modules_are_shared();
    return result();
}
