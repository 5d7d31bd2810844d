#include "cuda/ops/gpu_node.h"

#include <stdexcept>
#include <string>

#include "ops/shapes.h"
#include "ops/weights.h"

namespace lazyneuron::cuda {
namespace {

std::size_t bytes_of(ONNXTensorElementDataType type) {
    if (type == ONNX_INT8) return 1;
    return type == ONNX_FLOAT16 || type == ONNX_BFLOAT16 ? 2 : 4;
}

int device_of(const Ort& ort, const OrtAllocator* allocator) {
    int id = 0;
    ort.check(ort.MemoryInfoGetId(allocator->Info(allocator), &id));
    return id;
}

}  // namespace

DownPath down_path_for(const void* down, const std::optional<Shape>& shape, WeightType type) {
    const DownPath chosen = choose_down_path();
    const bool finite = down != nullptr && all_finite(down, shape->elements(), type);
    return finite ? chosen : DownPath::kRows;
}

GpuNode::GpuNode(const Ort& ort, const Node& node) : ort_(ort) {
    const OpenedDriver& opened = machine_driver();
    if (!opened.why_none.empty()) {
        throw std::runtime_error("the node is to run on CUDA, and " + opened.why_none);
    }
    ort.check(ort.KernelInfoGetAllocator(node.info(), OrtMemTypeDefault, &allocator_));
    try {
        modules_ = Modules::shared(opened.driver, device_of(ort, allocator_));
    } catch (...) {
        ort.ReleaseAllocator(allocator_);
        throw;
    }
    node.log(ORT_LOGGING_LEVEL_INFO, "runs on " + modules_->device().text());
}

GpuNode::~GpuNode() { ort_.ReleaseAllocator(allocator_); }

void* GpuNode::allocate(std::size_t bytes) {
    if (void* memory = allocator_->Alloc(allocator_, bytes)) return memory;
    throw std::runtime_error(modules_->device().text() + ": no memory for " + std::to_string(bytes) +
                             " bytes");
}

const void* GpuNode::on_host(const OrtValue* constant, std::vector<AlignedBuffer>& copies) const {
    const void* const data = tensor_data<void>(ort_, constant);
    if (data == nullptr) return nullptr;
    const OrtMemoryInfo* memory = nullptr;
    ort_.check(ort_.GetTensorMemoryInfo(constant, &memory));
    OrtMemoryInfoDeviceType where = OrtMemoryInfoDeviceType_CPU;
    ort_.MemoryInfoGetDeviceType(memory, &where);
    if (where == OrtMemoryInfoDeviceType_CPU) return data;
    const TensorInfo info = read_tensor_info(ort_, constant);
    const std::size_t bytes = info.shape->elements() * bytes_of(info.type);
    AlignedBuffer& copy = copies.emplace_back(bytes);
    const Driver& driver = modules_->driver();
    const std::string what = modules_->device().text() + ": reading a constant back";
    driver.check(driver.cuCtxSynchronize(), what);  // whatever copies it there has done so
    driver.check(driver.cuMemcpyDtoH(copy.data(), reinterpret_cast<CUdeviceptr>(data), bytes), what);
    return copy.data();
}

CUstream GpuNode::stream(const OrtKernelContext* context) const {
    void* stream = nullptr;
    ort_.check(ort_.KernelContext_GetGPUComputeStream(context, &stream));
    return static_cast<CUstream>(stream);
}

GpuNode::Scratch::Scratch(GpuNode& node, const OrtKernelContext* context, CUstream stream, std::size_t bytes)
    : node_(node) {
    if (bytes == 0) return;
    if (stream == nullptr) {  // the runtime's function wants one
        data_ = node.allocate(bytes);
        return;
    }
    const OrtMemoryInfo* const memory = node.allocator_->Info(node.allocator_);
    node.ort_.check(node.ort_.KernelContext_GetScratchBuffer(context, memory, bytes, &data_));
    if (data_ == nullptr) {
        throw std::runtime_error(node.modules_->device().text() + ": no scratch memory for " +
                                 std::to_string(bytes) + " bytes");
    }
}

}  // namespace lazyneuron::cuda
