// The second half of every operator: kept neurons -> output rows, by the accumulating kernels.
#pragma once

#include "dispatch/instruction_sets.h"
#include "dispatch/kept_lists.h"
#include "dispatch/packed_weights.h"
#include "dispatch/parallel.h"

namespace lazyneuron {

struct DownProjection {
    const PanelLayout& layout;
    const void* packed;  // follows `layout`
    const float* bias;   // [columns] or null
    bool finite;         // the weights hold neither an infinity nor a NaN
};

// Fills y [lists.rows][columns]. Uses up the lists: rows that keep many neurons are spread out in place.
void project_down(const KernelSet& kernels, const DownProjection& down, const KeptLists& lists, float* y,
                  const ParallelFor& parallel);

}  // namespace lazyneuron
