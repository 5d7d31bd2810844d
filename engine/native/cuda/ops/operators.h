// The operators SparseDown and SparseMLP for sessions with the CUDA execution provider, beside the CPU's.
#pragma once

#include "ort_abi.h"

namespace lazyneuron::cuda {

// Both live as long as the process.
const OrtCustomOp* sparse_down_op(const OrtApi* api);
const OrtCustomOp* sparse_mlp_op(const OrtApi* api);

}  // namespace lazyneuron::cuda
