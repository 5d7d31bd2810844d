#include "ops/ort.h"

#include <stdexcept>

namespace lazyneuron {

Ort::Ort(const OrtApi* api) {
#define LAZYNEURON_ORT_LOOKUP(slot, name, result, arguments) \
    name = reinterpret_cast<decltype(name)>(api->slots[slot]);
    LAZYNEURON_ORT_FUNCTIONS(LAZYNEURON_ORT_LOOKUP)
#undef LAZYNEURON_ORT_LOOKUP
}

void Ort::check(OrtStatus* status) const {
    if (status == nullptr) return;
    const std::string message = GetErrorMessage(status);
    ReleaseStatus(status);
    throw std::runtime_error(message);
}

}  // namespace lazyneuron
