"""The candidates' values, exactly: dot products of a row with the neurons of its list."""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.common import ALIGNED, BIAS, SCALE, bound, kernel, row_offset


@kernel
def project(
    x,
    weights,
    scale,
    bias,
    index,
    found,
    values,
    rows,
    neurons,
    depth,
    flags,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """values[row, i] = x[row] . weights[index[row, i]] * scale + bias, for the entries of a row's list.

    The programs of a row take its list in strips by turns, so that their number does not change a value.
    """
    row = tl.program_id(0)
    count = tl.load(found + row)
    first = tl.program_id(1) * BLOCK_NEURONS
    if first >= count:
        return
    index += row_offset(row, neurons)
    values += row_offset(row, neurons)
    step = tl.num_programs(1) * BLOCK_NEURONS
    # Said as a multiple, the length lets the compiler read vectors; pointers are aligned by agreement.
    if depth % ALIGNED == 0:
        length = depth // ALIGNED * ALIGNED
        row_x = x + row_offset(row, length)
        for start in range(first, count, step):
            _strip(
                row_x, weights, scale, bias, index, values, start, count, length, flags,
                BLOCK_NEURONS, BLOCK_DEPTH, UNROLL,
            )  # fmt: skip
    else:
        row_x = x + row_offset(row, depth)
        for start in range(first, count, step):
            _strip(
                row_x, weights, scale, bias, index, values, start, count, depth, flags,
                BLOCK_NEURONS, BLOCK_DEPTH, UNROLL,
            )  # fmt: skip


@triton.jit
def _strip(
    row_x,
    weights,
    scale,
    bias,
    index,
    values,
    start,
    count,
    depth,
    flags,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    UNROLL: tl.constexpr,
):
    place = start + tl.arange(0, BLOCK_NEURONS)
    listed = place < count
    neuron = tl.load(index + place, mask=listed, other=0)
    row_weights = weights + row_offset(neuron, depth)[:, None]
    total = tl.zeros([BLOCK_NEURONS, BLOCK_DEPTH], tl.float32)
    for d in range(0, depth, BLOCK_DEPTH * UNROLL):
        for part in tl.static_range(UNROLL):  # loads that do not wait for each other
            at = d + part * BLOCK_DEPTH + tl.arange(0, BLOCK_DEPTH)
            inside = at < depth
            w = tl.load(row_weights + at[None, :], mask=listed[:, None] & inside[None, :], other=0.0)
            v = tl.load(row_x + at, mask=inside, other=0.0)
            total = tl.fma(w.to(tl.float32), tl.broadcast_to(v[None, :], total.shape), total)
    value = tl.sum(total, 1)
    value *= tl.load(scale + neuron, mask=place < bound(count, flags, SCALE), other=1.0)
    value += tl.load(bias + neuron, mask=place < bound(count, flags, BIAS), other=0.0)
    tl.store(values + place, value, mask=listed)
