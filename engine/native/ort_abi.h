// The part of ONNX Runtime's C ABI that this library uses, declared here because the runtime's wheels carry
// no headers and a build downloads nothing. The ABI is frozen and append-only: OrtApi is a table of function
// pointers in which a function keeps its slot for ever.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtValue;
struct OrtLogger;
struct OrtMemoryInfo;
struct OrtTypeInfo;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtShapeInferContext;
struct OrtTensorTypeAndShapeInfo;

// The lowest version whose slots are used: KernelContext_GetScratchBuffer and KernelInfoGetAllocator came
// with 1.18.
#define LAZYNEURON_ORT_API_VERSION 18
#define LAZYNEURON_ORT_RELEASE "1.18"

enum OrtErrorCode { ORT_OK = 0, ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_RUNTIME_EXCEPTION = 6 };
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_VERBOSE = 0, ORT_LOGGING_LEVEL_INFO = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum OrtMemoryInfoDeviceType { OrtMemoryInfoDeviceType_CPU = 0, OrtMemoryInfoDeviceType_GPU = 1 };
enum OrtCustomOpInputOutputCharacteristic { INPUT_OUTPUT_REQUIRED = 0, INPUT_OUTPUT_OPTIONAL = 1 };
enum ONNXTensorElementDataType {
    ONNX_UNDEFINED = 0,  // as an input's type: any
    ONNX_FLOAT = 1,
    ONNX_INT8 = 3,
    ONNX_INT32 = 6,
    ONNX_FLOAT16 = 10,
    ONNX_BFLOAT16 = 16,
};

// What a Windows port changes: __stdcall here, and wchar_t for the logger's file path.
#define LAZYNEURON_ORT_CALL

struct OrtApi {
    void(LAZYNEURON_ORT_CALL* slots[1])();  // of some hundred: index with the constants below
};

struct OrtApiBase {
    const OrtApi*(LAZYNEURON_ORT_CALL* GetApi)(std::uint32_t version);  // null: the runtime is older
    const char*(LAZYNEURON_ORT_CALL* GetVersionString)();
};

struct OrtAllocator {
    std::uint32_t version;
    void*(LAZYNEURON_ORT_CALL* Alloc)(OrtAllocator*, std::size_t bytes);
    void(LAZYNEURON_ORT_CALL* Free)(OrtAllocator*, void*);
    const OrtMemoryInfo*(LAZYNEURON_ORT_CALL* Info)(const OrtAllocator*);
    // Later versions append functions that are not used here.
};

struct OrtCustomOp {
    std::uint32_t version;
    void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);  // null: CreateKernelV2
    const char* (*GetName)(const OrtCustomOp*);
    const char* (*GetExecutionProviderType)(const OrtCustomOp*);  // null: CPU
    ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp*, std::size_t);
    std::size_t (*GetInputTypeCount)(const OrtCustomOp*);
    ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp*, std::size_t);
    std::size_t (*GetOutputTypeCount)(const OrtCustomOp*);
    void (*KernelCompute)(void*, OrtKernelContext*);  // null: KernelComputeV2
    void (*KernelDestroy)(void*);
    OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, std::size_t);
    OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, std::size_t);
    OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, std::size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp*);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
    OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
    OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
    OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
    int (*GetStartVersion)(const OrtCustomOp*);
    int (*GetEndVersion)(const OrtCustomOp*);
    std::size_t (*GetMayInplace)(int** input_index, int** output_index);
    void (*ReleaseMayInplace)(int*, int*);
    std::size_t (*GetAliasMap)(int** input_index, int** output_index);
    void (*ReleaseAliasMap)(int*, int*);
};

}  // extern "C"

// Slot, name, result, arguments of every function that is used.
#define LAZYNEURON_ORT_FUNCTIONS(F)                                                                          \
    F(0, CreateStatus, OrtStatus*, (OrtErrorCode, const char* message))                                      \
    F(2, GetErrorMessage, const char*, (const OrtStatus*))                                                   \
    F(26, CreateCustomOpDomain, OrtStatus*, (const char* name, OrtCustomOpDomain**))                         \
    F(27, CustomOpDomain_Add, OrtStatus*, (OrtCustomOpDomain*, const OrtCustomOp*))                          \
    F(28, AddCustomOpDomain, OrtStatus*, (OrtSessionOptions*, OrtCustomOpDomain*))                           \
    F(51, GetTensorMutableData, OrtStatus*, (OrtValue*, void** data))                                        \
    F(55, CastTypeInfoToTensorInfo, OrtStatus*, (const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**))     \
    F(57, CreateTensorTypeAndShapeInfo, OrtStatus*, (OrtTensorTypeAndShapeInfo**))                           \
    F(58, SetTensorElementType, OrtStatus*, (OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType))         \
    F(59, SetDimensions, OrtStatus*, (OrtTensorTypeAndShapeInfo*, const std::int64_t*, std::size_t))         \
    F(60, GetTensorElementType, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*))  \
    F(61, GetDimensionsCount, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, std::size_t*))                  \
    F(62, GetDimensions, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t))         \
    F(63, GetSymbolicDimensions, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, const char**, std::size_t))  \
    F(65, GetTensorTypeAndShape, OrtStatus*, (const OrtValue*, OrtTensorTypeAndShapeInfo**))                 \
    F(72, MemoryInfoGetId, OrtStatus*, (const OrtMemoryInfo*, int* id))                                      \
    F(85, KernelInfoGetAttribute_float, OrtStatus*, (const OrtKernelInfo*, const char* name, float*))        \
    F(86, KernelInfoGetAttribute_int64, OrtStatus*, (const OrtKernelInfo*, const char* name, std::int64_t*)) \
    F(87, KernelInfoGetAttribute_string, OrtStatus*,                                                         \
      (const OrtKernelInfo*, const char* name, char* out, std::size_t* size))                                \
    F(88, KernelContext_GetInputCount, OrtStatus*, (const OrtKernelContext*, std::size_t*))                  \
    F(90, KernelContext_GetInput, OrtStatus*, (const OrtKernelContext*, std::size_t, const OrtValue**))      \
    F(91, KernelContext_GetOutput, OrtStatus*,                                                               \
      (OrtKernelContext*, std::size_t, const std::int64_t* dims, std::size_t rank, OrtValue**))              \
    F(93, ReleaseStatus, void, (OrtStatus*))                                                                 \
    F(98, ReleaseTypeInfo, void, (OrtTypeInfo*))                                                             \
    F(99, ReleaseTensorTypeAndShapeInfo, void, (OrtTensorTypeAndShapeInfo*))                                 \
    F(101, ReleaseCustomOpDomain, void, (OrtCustomOpDomain*))                                                \
    F(132, ReleaseAllocator, void, (OrtAllocator*))                                                          \
    F(193, KernelContext_GetGPUComputeStream, OrtStatus*, (const OrtKernelContext*, void** stream))          \
    F(194, GetTensorMemoryInfo, OrtStatus*, (const OrtValue*, const OrtMemoryInfo**))                        \
    F(225, MemoryInfoGetDeviceType, void, (const OrtMemoryInfo*, OrtMemoryInfoDeviceType*))                  \
    F(230, KernelInfo_GetInputCount, OrtStatus*, (const OrtKernelInfo*, std::size_t*))                       \
    F(234, KernelInfo_GetInputTypeInfo, OrtStatus*, (const OrtKernelInfo*, std::size_t, OrtTypeInfo**))      \
    F(244, KernelInfo_GetNodeName, OrtStatus*, (const OrtKernelInfo*, char* out, std::size_t* size))         \
    F(245, KernelInfo_GetLogger, OrtStatus*, (const OrtKernelInfo*, const OrtLogger**))                      \
    F(247, Logger_LogMessage, OrtStatus*,                                                                    \
      (const OrtLogger*, OrtLoggingLevel, const char* message, const char* file, int line,                   \
       const char* func))                                                                                    \
    F(249, KernelInfoGetConstantInput_tensor, OrtStatus*,                                                    \
      (const OrtKernelInfo*, std::size_t, int* is_constant, const OrtValue**))                               \
    F(267, ShapeInferContext_GetInputCount, OrtStatus*, (const OrtShapeInferContext*, std::size_t*))         \
    F(268, ShapeInferContext_GetInputTypeShape, OrtStatus*,                                                  \
      (const OrtShapeInferContext*, std::size_t, OrtTensorTypeAndShapeInfo**))                               \
    F(270, ShapeInferContext_SetOutputTypeShape, OrtStatus*,                                                 \
      (const OrtShapeInferContext*, std::size_t, const OrtTensorTypeAndShapeInfo*))                          \
    F(271, SetSymbolicDimensions, OrtStatus*, (OrtTensorTypeAndShapeInfo*, const char**, std::size_t))       \
    F(274, KernelContext_ParallelFor, OrtStatus*,                                                            \
      (const OrtKernelContext*, void (*fn)(void*, std::size_t), std::size_t total, std::size_t batches,      \
       void*))                                                                                               \
    F(277, KernelContext_GetScratchBuffer, OrtStatus*,                                                       \
      (const OrtKernelContext*, const OrtMemoryInfo*, std::size_t bytes, void** out))                        \
    F(278, KernelInfoGetAllocator, OrtStatus*, (const OrtKernelInfo*, OrtMemType, OrtAllocator**))
