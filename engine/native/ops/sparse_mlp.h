// The operator SparseMLP of the domain `lazyneuron`.
#pragma once

#include "ort_abi.h"

namespace lazyneuron {

// Lives as long as the process.
const OrtCustomOp* sparse_mlp_op(const OrtApi* api);

}  // namespace lazyneuron
