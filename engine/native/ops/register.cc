// The entry point that ONNX Runtime looks for in an operator library.
#include <memory>
#include <string>

#include "cuda/ops/operators.h"
#include "ops/export.h"
#include "ops/ort.h"
#include "ops/sparse_down.h"
#include "ops/sparse_mlp.h"

namespace lazyneuron {
namespace {

// The domain outlives every session, as the runtime asks: it is made once and never destroyed.
OrtCustomOpDomain* domain(const OrtApi* api, const Ort& ort) {
    static OrtCustomOpDomain* const made = [&] {
        OrtCustomOpDomain* created = nullptr;
        ort.check(ort.CreateCustomOpDomain("lazyneuron", &created));
        ort.check(ort.CustomOpDomain_Add(created, sparse_down_op(api)));
        ort.check(ort.CustomOpDomain_Add(created, sparse_mlp_op(api)));
        // A session without the CUDA execution provider never asks these for a kernel.
        ort.check(ort.CustomOpDomain_Add(created, cuda::sparse_down_op(api)));
        ort.check(ort.CustomOpDomain_Add(created, cuda::sparse_mlp_op(api)));
        return created;
    }();
    return made;
}

// Every runtime has version 1 of the API, which is enough to say that it is too old.
OrtStatus* refuse_old_runtime(const OrtApiBase* base) {
    const std::string message = std::string("lazyneuron's operators need ONNX Runtime " LAZYNEURON_ORT_RELEASE
                                            " or later; this one is ") +
                                base->GetVersionString();
    const OrtApi* api = base->GetApi(1);
    using CreateStatus = OrtStatus* (*)(OrtErrorCode, const char*);
    return reinterpret_cast<CreateStatus>(api->slots[0])(ORT_FAIL, message.c_str());
}

}  // namespace
}  // namespace lazyneuron

LAZYNEURON_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    using namespace lazyneuron;
    const OrtApi* api = base->GetApi(LAZYNEURON_ORT_API_VERSION);
    if (api == nullptr) return refuse_old_runtime(base);
    const Ort ort(api);
    return as_status(ort,
                     "lazyneuron: ", [&] { ort.check(ort.AddCustomOpDomain(options, domain(api, ort))); });
}
