"""The sparse down projection, row by row."""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.common import (
    ALIGNED,
    DOWN_BIAS,
    PARTIAL,
    POISONED,
    SKIPPED,
    bound,
    kernel,
    row_offset,
)

# A row's list is always added up in so many segments, whose sums are added in their order: by one program, or by as
# many programs and `reduce_down`. Both give the same bits.
SEGMENTS = tl.constexpr(8)


@kernel
def down(
    kept,
    coefficient,
    counts,
    weights,
    down_bias,
    y,
    rows,
    neurons,
    columns,
    splits,
    flags,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """y[row] = bias + sum of coefficient * weights[neuron]; with PARTIAL one of `splits` parts of it, without bias."""
    row = tl.program_id(0)
    split = tl.program_id(2)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    count = tl.load(counts + row)
    partial = (flags & PARTIAL) != 0
    kept += row_offset(row, neurons)
    coefficient += row_offset(row, neurons)
    blocks = (tl.maximum(count, 0) + BLOCK_NEURONS - 1) // BLOCK_NEURONS
    segment = tl.maximum((blocks + SEGMENTS - 1) // SEGMENTS, 1) * BLOCK_NEURONS
    first = split * segment
    last = tl.where(partial, tl.minimum(first + segment, count), count)
    total = tl.zeros([BLOCK_COLUMNS], tl.float32)
    # Said as a multiple, the length lets the compiler read vectors; pointers are aligned by agreement.
    if columns % ALIGNED == 0:
        length = columns // ALIGNED * ALIGNED
        for start in range(first, last, segment):
            total += _segment(
                kept, coefficient, weights, start, tl.minimum(start + segment, count), column, length,
                BLOCK_NEURONS, BLOCK_COLUMNS,
            )  # fmt: skip
    else:
        for start in range(first, last, segment):
            total += _segment(
                kept, coefficient, weights, start, tl.minimum(start + segment, count), column, columns,
                BLOCK_NEURONS, BLOCK_COLUMNS,
            )  # fmt: skip
    inside = column < columns
    if partial:
        y += row_offset(split, 1) * rows * columns
    else:
        total = _finish(total, down_bias, column, columns, count, flags)
    tl.store(y + row_offset(row, columns) + column, total, mask=inside)


@triton.jit
def _segment(
    kept,
    coefficient,
    weights,
    start,
    stop,
    column,
    columns,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    inside = column < columns
    total = tl.zeros([BLOCK_NEURONS, BLOCK_COLUMNS], tl.float32)
    for block in range(start, stop, BLOCK_NEURONS):
        place = block + tl.arange(0, BLOCK_NEURONS)
        listed = place < stop
        neuron = tl.load(kept + place, mask=listed, other=0)
        factor = tl.load(coefficient + place, mask=listed, other=0.0)
        at = row_offset(neuron, columns)[:, None] + column[None, :]
        w = tl.load(weights + at, mask=listed[:, None] & inside[None, :], other=0.0)
        total = tl.fma(w.to(tl.float32), tl.broadcast_to(factor[:, None], total.shape), total)
    return tl.sum(total, 0)


@triton.jit
def _finish(total, down_bias, column, columns, count, flags):
    """Add the bias; a row that has no list has its own answer."""
    total += tl.load(down_bias + column, mask=column < bound(columns, flags, DOWN_BIAS), other=0.0)
    total = tl.where(count == SKIPPED, 0.0, total)
    return tl.where(count == POISONED, float("nan"), total)


@kernel
def reduce_down(partial, counts, down_bias, y, rows, columns, splits, flags, BLOCK_COLUMNS: tl.constexpr):
    """Add up the parts that `down` has made of a row, in their order."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = column < columns
    count = tl.load(counts + row)
    at = partial + row_offset(row, columns) + column
    plane = row_offset(rows, columns)
    total = tl.zeros([BLOCK_COLUMNS], tl.float32)
    for _ in range(splits):
        total += tl.load(at, mask=inside, other=0.0)
        at += plane
    total = _finish(total, down_bias, column, columns, count, flags)
    tl.store(y + row_offset(row, columns) + column, total, mask=inside)
