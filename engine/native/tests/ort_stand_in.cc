#include "tests/ort_stand_in.h"

#include <cstdlib>

namespace lazyneuron::testing {
namespace {

int objects = 0;

OrtStatus* failed(const std::string& message) {
    ++objects;
    return new OrtStatus{ORT_FAIL, message};
}

// Of the names that LAZYNEURON_ORT_FUNCTIONS has.
struct Stand {
    static OrtStatus* CreateStatus(OrtErrorCode code, const char* message) {
        ++objects;
        return new OrtStatus{code, message};
    }
    static const char* GetErrorMessage(const OrtStatus* status) { return status->message.c_str(); }
    static void ReleaseStatus(OrtStatus* status) {
        --objects;
        delete status;
    }

    static OrtStatus* GetTensorMutableData(OrtValue* value, void** data) {
        *data = value->data;
        return nullptr;
    }
    static OrtStatus* GetTensorTypeAndShape(const OrtValue* value, OrtTensorTypeAndShapeInfo** info) {
        ++objects;
        *info = new OrtTensorTypeAndShapeInfo(value->info);
        return nullptr;
    }
    static void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) {
        --objects;
        delete info;
    }
    static OrtStatus* GetTensorElementType(const OrtTensorTypeAndShapeInfo* info,
                                           ONNXTensorElementDataType* type) {
        *type = info->type;
        return nullptr;
    }
    static OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, std::size_t* count) {
        *count = info->dims.size();
        return nullptr;
    }
    static OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* info, std::int64_t* dims,
                                    std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) dims[i] = info->dims[i];
        return nullptr;
    }
    static OrtStatus* GetTensorMemoryInfo(const OrtValue* value, const OrtMemoryInfo** memory) {
        *memory = &value->memory;
        return nullptr;
    }
    static void MemoryInfoGetDeviceType(const OrtMemoryInfo* memory, OrtMemoryInfoDeviceType* type) {
        *type = memory->type;
    }
    static OrtStatus* MemoryInfoGetId(const OrtMemoryInfo* memory, int* id) {
        *id = memory->id;
        return nullptr;
    }

    template <class T>
    static const T* attribute(const OrtKernelInfo* info, const char* name) {
        const auto found = info->attributes.find(name);
        return found == info->attributes.end() ? nullptr : std::get_if<T>(&found->second);
    }
    static OrtStatus* KernelInfoGetAttribute_float(const OrtKernelInfo* info, const char* name, float* out) {
        const float* const value = attribute<float>(info, name);
        if (value == nullptr) return failed("no such attribute");
        *out = *value;
        return nullptr;
    }
    static OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name,
                                                   std::int64_t* out) {
        const std::int64_t* const value = attribute<std::int64_t>(info, name);
        if (value == nullptr) return failed("no such attribute");
        *out = *value;
        return nullptr;
    }
    static OrtStatus* text(const std::string& value, char* out, std::size_t* size) {
        if (out != nullptr) value.copy(out, *size);
        *size = value.size();
        return nullptr;
    }
    static OrtStatus* KernelInfoGetAttribute_string(const OrtKernelInfo* info, const char* name, char* out,
                                                    std::size_t* size) {
        const std::string* const value = attribute<std::string>(info, name);
        return value == nullptr ? failed("no such attribute") : text(*value, out, size);
    }
    static OrtStatus* KernelInfo_GetNodeName(const OrtKernelInfo* info, char* out, std::size_t* size) {
        return text(info->name, out, size);
    }
    static OrtStatus* KernelInfo_GetInputCount(const OrtKernelInfo* info, std::size_t* count) {
        *count = info->inputs.size();
        return nullptr;
    }
    static OrtStatus* KernelInfo_GetInputTypeInfo(const OrtKernelInfo* info, std::size_t i,
                                                  OrtTypeInfo** type) {
        if (info->inputs[i].type == ONNX_UNDEFINED) return failed("no such input");
        ++objects;
        *type = new OrtTypeInfo{info->inputs[i]};
        return nullptr;
    }
    static OrtStatus* CastTypeInfoToTensorInfo(const OrtTypeInfo* type,
                                               const OrtTensorTypeAndShapeInfo** tensor) {
        *tensor = &type->tensor;
        return nullptr;
    }
    static void ReleaseTypeInfo(OrtTypeInfo* type) {
        --objects;
        delete type;
    }
    static OrtStatus* KernelInfo_GetLogger(const OrtKernelInfo*, const OrtLogger** logger) {
        *logger = nullptr;
        return nullptr;
    }
    static OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, std::size_t i,
                                                        int* is_constant, const OrtValue** value) {
        *value = info->constants[i];
        *is_constant = *value != nullptr;
        return nullptr;
    }

    struct Allocator : OrtAllocator {
        OrtMemoryInfo memory{OrtMemoryInfoDeviceType_GPU, 0};
    };
    static OrtStatus* KernelInfoGetAllocator(const OrtKernelInfo*, OrtMemType, OrtAllocator** out) {
        ++objects;
        auto* const allocator = new Allocator;
        allocator->version = LAZYNEURON_ORT_API_VERSION;
        allocator->Alloc = [](OrtAllocator*, std::size_t bytes) {
            return StandIn::current().allocate(bytes);
        };
        allocator->Free = [](OrtAllocator*, void* memory) { StandIn::current().release(memory); };
        allocator->Info = [](const OrtAllocator* a) { return &static_cast<const Allocator*>(a)->memory; };
        *out = allocator;
        return nullptr;
    }
    static void ReleaseAllocator(OrtAllocator* allocator) {
        --objects;
        delete static_cast<Allocator*>(allocator);
    }

    static OrtStatus* KernelContext_GetInputCount(const OrtKernelContext* context, std::size_t* count) {
        *count = context->inputs.size();
        return nullptr;
    }
    static OrtStatus* KernelContext_GetInput(const OrtKernelContext* context, std::size_t i,
                                             const OrtValue** value) {
        *value = context->inputs[i];
        return nullptr;
    }
    static OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, std::size_t i,
                                              const std::int64_t* dims, std::size_t rank, OrtValue** value) {
        OrtValue& output = context->outputs[i];
        output.info = {i == 0 ? ONNX_FLOAT : ONNX_INT32, {dims, dims + rank}};
        std::size_t count = 1;
        for (const std::int64_t dim : output.info.dims) count *= static_cast<std::size_t>(dim);
        output.data = StandIn::current().allocate(count * 4);
        *value = &output;
        return nullptr;
    }
    static OrtStatus* KernelContext_GetGPUComputeStream(const OrtKernelContext* context, void** stream) {
        *stream = context->stream;
        return nullptr;
    }
    static OrtStatus* KernelContext_GetScratchBuffer(const OrtKernelContext* context, const OrtMemoryInfo*,
                                                     std::size_t bytes, void** out) {
        if (context->stream == nullptr) std::abort();  // as the runtime does
        if (context->no_scratch) return failed("Failed to allocate memory for requested buffer");
        *out = StandIn::current().allocate(bytes);
        return nullptr;
    }
};

struct Table {
    void (*slots[512])();
    Table() {
        for (auto& slot : slots) slot = [] { std::abort(); };
#define STAND(slot, name) slots[slot] = reinterpret_cast<void (*)()>(&Stand::name);
        STAND(0, CreateStatus)
        STAND(2, GetErrorMessage)
        STAND(51, GetTensorMutableData)
        STAND(55, CastTypeInfoToTensorInfo)
        STAND(60, GetTensorElementType)
        STAND(61, GetDimensionsCount)
        STAND(62, GetDimensions)
        STAND(65, GetTensorTypeAndShape)
        STAND(72, MemoryInfoGetId)
        STAND(85, KernelInfoGetAttribute_float)
        STAND(86, KernelInfoGetAttribute_int64)
        STAND(87, KernelInfoGetAttribute_string)
        STAND(88, KernelContext_GetInputCount)
        STAND(90, KernelContext_GetInput)
        STAND(91, KernelContext_GetOutput)
        STAND(93, ReleaseStatus)
        STAND(98, ReleaseTypeInfo)
        STAND(99, ReleaseTensorTypeAndShapeInfo)
        STAND(132, ReleaseAllocator)
        STAND(193, KernelContext_GetGPUComputeStream)
        STAND(194, GetTensorMemoryInfo)
        STAND(225, MemoryInfoGetDeviceType)
        STAND(230, KernelInfo_GetInputCount)
        STAND(234, KernelInfo_GetInputTypeInfo)
        STAND(244, KernelInfo_GetNodeName)
        STAND(245, KernelInfo_GetLogger)
        STAND(249, KernelInfoGetConstantInput_tensor)
        STAND(277, KernelContext_GetScratchBuffer)
        STAND(278, KernelInfoGetAllocator)
#undef STAND
    }
};

}  // namespace

const OrtApi* ort_stand_in() {
    static const Table table;
    return reinterpret_cast<const OrtApi*>(&table);
}

int ort_objects() { return objects; }

}  // namespace lazyneuron::testing
