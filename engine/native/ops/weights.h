// Weight matrices as operators get them: their types, their checks, their packed form.
#pragma once

#include <string>

#include "dispatch/aligned_buffer.h"
#include "dispatch/packed_weights.h"
#include "dispatch/sparse_down.h"
#include "ops/ort.h"
#include "ops/shapes.h"

namespace lazyneuron {

// Whose kernels a node runs on. A GPU's take bfloat16 weights, too.
enum class Target { kCpu, kCuda };

// The kernels' type for a tensor's; throws a Refusal that names the input for any other.
WeightType weight_type(const char* name, ONNXTensorElementDataType type, Target target);

// Refuse a NaN in a constant, naming its position: a neuron in a matrix's row, an element of a vector.
void refuse_nan_in_matrix(const char* name, const void* data, WeightType type, std::size_t neurons,
                          std::size_t columns);
void refuse_nan_in_vector(const char* name, const float* data, std::size_t size, const char* what);

// A copy in memory of our own: the runtime's lies in small pages and perhaps in a file.
AlignedBuffer copy_weights(const void* weights, std::size_t bytes);

// Packs all panels of row-major `down`: to new memory on this thread, or to given memory on many. Both tell
// whether all weights are finite.
AlignedBuffer pack(const PanelLayout& layout, const void* down, bool& finite);
bool pack_to(char* packed, const PanelLayout& layout, const void* down, const ParallelFor& parallel);

}  // namespace lazyneuron
