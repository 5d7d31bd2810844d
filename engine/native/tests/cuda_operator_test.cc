// The operators for the CUDA execution provider, made and called as ONNX Runtime does it, on stand-ins for it
// and for the driver: constants are read back, checked and screened, calls agree with the CPU's, errors are
// statuses.
#include "cuda/introspection.h"
#include "cuda/ops/operators.h"
#include "tests/cuda_problem.h"
#include "tests/ort_stand_in.h"

using namespace lazyneuron;
using namespace lazyneuron::testing;

namespace lazyneuron::cuda {

static OpenedDriver opened;

// In the place of the machine's.
const OpenedDriver& machine_driver() { return opened; }

}  // namespace lazyneuron::cuda

namespace {

constexpr ONNXTensorElementDataType kOnnxTypes[] = {ONNX_FLOAT, ONNX_FLOAT16, ONNX_INT8, ONNX_BFLOAT16};

// A node and a call of it, from a problem.
class Session {
 public:
    // Inputs in the operator's order; those in `dynamic` are no constants.
    Session(StandIn& stand_in, const OrtCustomOp* op) : device_(stand_in), stand_in_(stand_in), op_(op) {
        info.name = "block/mlp";
    }
    ~Session() {
        for (auto& [i, output] : context.outputs) stand_in_.release(output.data);
        if (kernel_ != nullptr) op_->KernelDestroy(kernel_);
    }

    void absent() { add({}, nullptr, 0, false); }
    void input(const std::vector<float>& values, std::vector<std::int64_t> dims, bool constant) {
        if (values.empty()) return absent();
        add({ONNX_FLOAT, std::move(dims)}, values.data(), values.size() * sizeof(float), constant);
    }
    void input(const Matrix& matrix, std::size_t neurons, bool constant = true) {
        const auto rows = static_cast<std::int64_t>(neurons);
        add({kOnnxTypes[static_cast<int>(matrix.type)],
             {rows, static_cast<std::int64_t>(matrix.floats.size()) / rows}},
            matrix.bytes.data(), matrix.bytes.size(), constant);
    }

    // The status's message, or nothing.
    std::string make() { return text(op_->CreateKernelV2(op_, ort_stand_in(), &info, &kernel_)); }
    std::string call() {
        context.stream = stand_in_.stream;
        return text(op_->KernelComputeV2(kernel_, &context));
    }
    Answer answer(const Problem& p) {
        Answer out(p.sizes.rows, p.sizes.columns);
        std::memcpy(out.y.data(), context.outputs[0].data, out.y.size() * sizeof(float));
        std::memcpy(out.active.data(), context.outputs[1].data, out.active.size() * 4);
        if (context.outputs.size() > 2) {
            std::memcpy(out.candidates.data(), context.outputs[2].data, out.candidates.size() * 4);
        }
        return out;
    }

    OrtKernelInfo info;
    OrtKernelContext context;

 private:
    void add(OrtTensorTypeAndShapeInfo type, const void* data, std::size_t bytes, bool constant) {
        const bool there = type.type != ONNX_UNDEFINED;
        info.inputs.push_back(type);
        if (there) values_.push_back(std::make_unique<OrtValue>(OrtValue{type, device_.copy(data, bytes)}));
        info.constants.push_back(there && constant ? values_.back().get() : nullptr);
        context.inputs.push_back(there ? values_.back().get() : nullptr);
    }
    static std::string text(OrtStatus* status) {
        if (status == nullptr) return "";
        const std::string message = status->message;
        const auto release = reinterpret_cast<void (*)(OrtStatus*)>(ort_stand_in()->slots[93]);
        release(status);
        return message;
    }

    Device device_;
    StandIn& stand_in_;
    const OrtCustomOp* const op_;
    std::vector<std::unique_ptr<OrtValue>> values_;
    void* kernel_ = nullptr;
};

std::int64_t signed_size(std::size_t size) { return static_cast<std::int64_t>(size); }

void set_gating(Session& session, const SparseMlpOptions& options) {
    const char* const names[] = {"relu", "relu2", "gelu", "gelu_tanh", "silu", "identity"};
    session.info.attributes["activation"] = std::string(names[static_cast<int>(options.gating.activation)]);
    session.info.attributes["top_k"] = signed_size(options.gating.top_k);
    session.info.attributes["threshold"] = options.gating.threshold;
}

// `constants`: whether weights are constants of the graph.
std::unique_ptr<Session> mlp_session(StandIn& stand_in, const Problem& p, bool constants = true) {
    auto session = std::make_unique<Session>(stand_in, cuda::sparse_mlp_op(ort_stand_in()));
    const char* const modes[] = {"certified", "predictor", "gate"};
    set_gating(*session, p.options);
    session->info.attributes["mode"] = std::string(modes[static_cast<int>(p.options.mode)]);
    session->info.attributes["score_threshold"] = p.options.score_threshold;
    const std::int64_t rows = signed_size(p.sizes.rows), neurons = signed_size(p.sizes.neurons);
    session->input(p.x, {1, rows, signed_size(p.sizes.depth)}, false);
    session->input(p.up, p.sizes.neurons, constants);
    session->input(p.down, p.sizes.neurons, constants);
    session->input(p.up_bias, {neurons}, constants);
    session->input(p.down_bias, {signed_size(p.sizes.columns)}, constants);
    session->input(p.budget, {1, rows}, false);
    session->input(p.certified() ? std::vector<float>() : p.scores, {1, rows, neurons}, false);
    p.gate ? session->input(*p.gate, p.sizes.neurons, constants) : session->absent();
    session->input(p.up.scale, {neurons}, constants);
    session->input(p.down.scale, {neurons}, constants);
    session->input(p.gate ? p.gate->scale : std::vector<float>(), {neurons}, constants);
    return session;
}

SparseMlpOptions options_of(Mode mode) {
    SparseMlpOptions options;
    options.mode = mode;
    options.gating.top_k = 9;
    return options;
}

const ProblemSizes kSizes{5, 20, 70, 9};

void test_sparse_mlp(StandIn& stand_in) {
    for (const Mode mode : {Mode::kCertified, Mode::kPredictor, Mode::kGate}) {
        for (const WeightType up : {WeightType::kFloat32, WeightType::kInt8, WeightType::kBFloat16}) {
            const std::string context = "mode " + std::to_string(static_cast<int>(mode));
            std::optional<WeightType> gate;
            if (mode == Mode::kPredictor) gate = WeightType::kFloat16;
            Problem p(kSizes, options_of(mode), up, WeightType::kInt8, gate);
            p.make_strange();
            const auto session = mlp_session(stand_in, p);
            CHECK(session->make().empty(), context);
            CHECK(session->call().empty(), context);
            check_same(p, session->answer(p), mlp_on_cpu(p), true, context);
            CHECK((session->context.outputs[0].info.dims == std::vector<std::int64_t>{1, 5, 9}),
                  "shape of y");
            CHECK((session->context.outputs[2].info.dims == std::vector<std::int64_t>{1, 5}),
                  "shape of counts");
        }
    }
}

void test_sparse_down(StandIn& stand_in) {
    for (const bool constants : {false, true}) {
        Problem p(kSizes, options_of(Mode::kGate), WeightType::kFloat32, WeightType::kFloat16, std::nullopt);
        p.make_strange();
        Session session(stand_in, cuda::sparse_down_op(ort_stand_in()));
        set_gating(session, p.options);
        session.input(p.scores, {5, 70}, false);
        session.input(p.down, 70, constants);
        session.input(p.up_bias, {70}, constants);
        session.input(p.down_bias, {9}, constants);
        session.input(p.budget, {5}, false);
        CHECK(session.make().empty(), "SparseDown");
        CHECK(session.call().empty(), "SparseDown");
        check_same(p, session.answer(p), down_on_cpu(p), false, "SparseDown");
    }
}

// Without a stream the runtime's function for scratch memory cannot be asked.
void test_the_default_stream(StandIn& stand_in) {
    const Problem p(kSizes, options_of(Mode::kGate), WeightType::kFloat32, WeightType::kFloat32,
                    std::nullopt);
    const auto session = mlp_session(stand_in, p);
    const CUstream before = stand_in.stream;
    stand_in.stream = nullptr;
    CHECK(session->make().empty() && session->call().empty(), "default stream");
    check_same(p, session->answer(p), mlp_on_cpu(p), true, "default stream");
    stand_in.stream = before;
}

void test_no_rows(StandIn& stand_in) {
    Problem p({1, 20, 70, 9}, options_of(Mode::kCertified), WeightType::kFloat32, WeightType::kFloat32,
              std::nullopt);
    const auto session = mlp_session(stand_in, p);
    CHECK(session->make().empty(), "no rows");
    const std::size_t launched = stand_in.launched.size();
    OrtValue empty{{ONNX_FLOAT, {1, 0, 20}}, nullptr};
    session->context.inputs[0] = &empty;
    CHECK(session->call().empty(), "no rows");
    CHECK(stand_in.launched.size() == launched, "nothing to do");
}

void test_refusals(StandIn& stand_in) {
    const std::string node = "SparseMLP node 'block/mlp': ";
    const auto message_of = [&](const Problem& p, bool constants) {
        return mlp_session(stand_in, p, constants)->make();
    };
    Problem p(kSizes, options_of(Mode::kCertified), WeightType::kFloat32, WeightType::kFloat16, std::nullopt);
    std::string message = message_of(p, false);
    CHECK(message == node + "input 'up' is not a constant, expected one with mode 'certified' on a GPU",
          message);
    const std::uint16_t nan = 0x7E00;
    std::memcpy(p.down.bytes.data() + 2 * 11, &nan, 2);
    message = message_of(p, true);
    CHECK(message == node + "input 'down' is NaN at neuron 1, column 2, expected a number", message);
    Problem other(kSizes, options_of(Mode::kGate), WeightType::kInt8, WeightType::kFloat32, std::nullopt);
    other.up.scale.clear();
    message = message_of(other, true);
    CHECK(message ==
              node +
                  "input 'up' is int8 and there is no input 'up_scale', expected one float32 for each neuron",
          message);
    const auto session = mlp_session(stand_in, other);
    session->info.inputs[1].type = static_cast<ONNXTensorElementDataType>(11);
    session->info.constants[1] = nullptr;
    message = session->make();
    CHECK(message == node + "input 'up' is float64, expected float32, float16, bfloat16 or int8", message);
}

void test_errors_are_statuses(StandIn& stand_in) {
    const Problem p(kSizes, options_of(Mode::kCertified), WeightType::kFloat32, WeightType::kFloat32,
                    std::nullopt);
    const std::string device = "SparseMLP node 'block/mlp': CUDA device 0 (Stand-in): ";
    const struct {
        const char* function;
        const char* what;
    } at_the_start[] = {{"cuCtxSynchronize", "reading a constant back"},
                        {"cuMemcpyDtoH", "reading a constant back"},
                        {"cuMemcpyHtoD", "copying the certified screen"},
                        {"cuModuleLoadDataEx", "loading kernel 'select' (ptxas fatal: not an image)"},
                        {"cuDevicePrimaryCtxRetain", "taking its primary context"}};
    for (const auto& [function, what] : at_the_start) {
        const auto session = mlp_session(stand_in, p);
        stand_in.forget_calls();
        stand_in.fail(function, 0, 719);
        const std::string message = session->make();
        const std::string reason =
            std::string(function) == "cuModuleLoadDataEx" ? "loading kernel 'select'" : what;
        CHECK(message == device + reason + ": CUDA_ERROR_OF_THE_TEST (its description)", message);
    }
    stand_in.forget_calls();
    const auto session = mlp_session(stand_in, p);
    CHECK(session->make().empty(), "no failure");
    session->context.no_scratch = true;
    std::string message = session->call();
    CHECK(message == "SparseMLP node 'block/mlp': Failed to allocate memory for requested buffer", message);
    session->context.no_scratch = false;
    for (auto& [i, output] : session->context.outputs) stand_in.release(output.data);
    session->context.outputs.clear();
    stand_in.fail("cuLaunchKernel", 2, CUDA_ERROR_OUT_OF_MEMORY);
    message = session->call();
    CHECK(message == device + "launching kernel 'list_masked': CUDA_ERROR_OUT_OF_MEMORY (its description)",
          message);
    stand_in.forget_calls();
}

void test_no_driver(StandIn& stand_in) {
    const Problem p(kSizes, options_of(Mode::kGate), WeightType::kFloat32, WeightType::kFloat32,
                    std::nullopt);
    cuda::opened.why_none = "there is no NVIDIA driver: libcuda.so.1: not found";
    const std::string message = mlp_session(stand_in, p)->make();
    CHECK(contains(message, "the node is to run on CUDA, and there is no NVIDIA driver: libcuda.so.1"),
          message);
    cuda::opened.why_none.clear();
}

void test_introspection() {
    char why[1024];
    CHECK(lazyneuron_cuda_devices(why, sizeof why) == 1 && std::string(why).empty(), why);
    LazyneuronCudaDevice device{};
    CHECK(lazyneuron_cuda_device(0, &device, why, sizeof why) == 1, why);
    CHECK(std::string(device.name) == "Stand-in" && device.major == 8 && device.minor == 6, device.name);
    CHECK(device.multiprocessors == 108 && device.memory_bytes == std::uint64_t{4} << 30, device.name);
    CHECK(lazyneuron_cuda_device(5, &device, why, sizeof why) == 0, "there is no such device");
    CHECK(contains(why, "describing CUDA device 5: "), why);
    StandIn::current().device_count = 0;
    CHECK(lazyneuron_cuda_devices(why, sizeof why) == 0, "no device");
    CHECK(std::string(why) == "the NVIDIA driver finds no device", why);
    StandIn::current().device_count = 1;
    cuda::opened.why_none = "there is no NVIDIA driver";
    CHECK(lazyneuron_cuda_devices(why, 6) == 0 && std::string(why) == "there", why);
    CHECK(lazyneuron_cuda_devices(why, 0) == 0, "no room for a reason");
    cuda::opened.why_none.clear();
}

void test_what_the_runtime_is_told() {
    for (const OrtCustomOp* op :
         {cuda::sparse_down_op(ort_stand_in()), cuda::sparse_mlp_op(ort_stand_in())}) {
        CHECK(std::string(op->GetExecutionProviderType(op)) == "CUDAExecutionProvider", "provider");
        CHECK(op->GetInputMemoryType(op, 0) == OrtMemTypeDefault, "inputs stay on the device");
    }
}

}  // namespace

int main() {
    const cuda::KernelTable table = cuda::KernelTable::read(cuda::compiled_folder());
    StandIn stand_in(table);
    stand_in.stream = reinterpret_cast<CUstream>(&stand_in);  // any address that is not null
    cuda::opened.driver = stand_in.driver();
    test_what_the_runtime_is_told();
    test_sparse_mlp(stand_in);
    test_sparse_down(stand_in);
    test_the_default_stream(stand_in);
    test_no_rows(stand_in);
    test_refusals(stand_in);
    test_errors_are_statuses(stand_in);
    test_no_driver(stand_in);
    test_introspection();
    for (const std::string& what : stand_in.wrong) CHECK(false, what);
    CHECK(stand_in.leaks().empty(), stand_in.leaks());
    CHECK(ort_objects() == 0, std::to_string(ort_objects()) + " of the runtime's objects");
    return result();
}
