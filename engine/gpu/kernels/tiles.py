"""The sparse down projection of tiles of rows: one list for a tile, the union of its rows' lists.

It reads a neuron's weights once for all rows of a tile, and multiplies by zero where a row has not kept it. That pays
where rows share neurons. It is for finite weights alone: zero times infinity would be a NaN.
"""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.common import (
    ALIGNED,
    DOWN_BIAS,
    POISONED,
    SKIPPED,
    bound,
    kernel,
    places,
    row_offset,
)


@kernel
def union_lists(
    kept,
    coefficient,
    counts,
    union_index,
    union_count,
    spread_coefficient,
    rows,
    neurons,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NEURONS: tl.constexpr,
):
    """One tile's neurons, ascending, and each of its rows' coefficients of them, 0 where a row has not kept one.

    `spread_coefficient` is at first indexed by neuron and then packed in place.
    """
    tile = tl.program_id(0)
    first = tile * BLOCK_ROWS
    row = first + tl.arange(0, BLOCK_ROWS)
    is_row = row < rows
    spread = spread_coefficient + row_offset(row, neurons)[:, None]
    for start in range(0, neurons, BLOCK_NEURONS):
        neuron = start + tl.arange(0, BLOCK_NEURONS)
        inside = is_row[:, None] & (neuron < neurons)[None, :]
        tl.store(spread + neuron[None, :], tl.zeros([BLOCK_ROWS, BLOCK_NEURONS], tl.float32), mask=inside)
    tl.debug_barrier()

    for one in range(first, tl.minimum(first + BLOCK_ROWS, rows)):
        count = tl.load(counts + one)
        offset = row_offset(one + tl.zeros_like(tile), neurons)
        for start in range(0, count, BLOCK_NEURONS):
            place = start + tl.arange(0, BLOCK_NEURONS)
            listed = place < count
            neuron = tl.load(kept + offset + place, mask=listed, other=0)
            value = tl.load(coefficient + offset + place, mask=listed, other=0.0)
            tl.store(spread_coefficient + offset + neuron, value, mask=listed)
    tl.debug_barrier()

    union_index += row_offset(tile, neurons)
    total = tl.zeros_like(tile)
    for start in range(0, neurons, BLOCK_NEURONS):
        neuron = start + tl.arange(0, BLOCK_NEURONS)
        inside = is_row[:, None] & (neuron < neurons)[None, :]
        value = tl.load(spread + neuron[None, :], mask=inside, other=0.0)
        wanted = tl.max((value != 0).to(tl.int32), 0) != 0
        place = places(wanted, total)
        tl.store(union_index + place, neuron, mask=wanted)
        # What is written lies before what other threads have still to read, once all have read this far.
        tl.debug_barrier()
        tl.store(spread + place[None, :], value, mask=is_row[:, None] & wanted[None, :])
        total += tl.sum(wanted.to(tl.int32), 0)
    tl.store(union_count + tile, total)


@kernel
def down_tile(
    union_index,
    union_count,
    spread_coefficient,
    counts,
    weights,
    down_bias,
    y,
    rows,
    neurons,
    columns,
    flags,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Project a tile of rows: bias + coefficients times the weights of the tile's neurons."""
    tile = tl.program_id(0)
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    is_row, inside = row < rows, column < columns
    union_index += row_offset(tile, neurons)
    spread = spread_coefficient + row_offset(row, neurons)[:, None]
    count = tl.load(union_count + tile)
    # Said as a multiple, the length lets the compiler read vectors; pointers are aligned by agreement.
    if columns % ALIGNED == 0:
        length = columns // ALIGNED * ALIGNED
        total = _tile_sum(union_index, spread, weights, count, is_row, column, length,
                          BLOCK_ROWS, BLOCK_NEURONS, BLOCK_COLUMNS)  # fmt: skip
    else:
        total = _tile_sum(union_index, spread, weights, count, is_row, column, columns,
                          BLOCK_ROWS, BLOCK_NEURONS, BLOCK_COLUMNS)  # fmt: skip
    total += tl.load(down_bias + column, mask=column < bound(columns, flags, DOWN_BIAS), other=0.0)[None, :]
    state = tl.load(counts + row, mask=is_row, other=0)[:, None]
    total = tl.where(state == SKIPPED, 0.0, total)
    total = tl.where(state == POISONED, float("nan"), total)
    to = y + row_offset(row, columns)[:, None] + column[None, :]
    tl.store(to, total, mask=is_row[:, None] & inside[None, :])


@triton.jit
def _tile_sum(
    union_index,
    spread,
    weights,
    count,
    is_row,
    column,
    columns,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    inside = column < columns
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(0, count, BLOCK_NEURONS):
        place = start + tl.arange(0, BLOCK_NEURONS)
        listed = place < count
        neuron = tl.load(union_index + place, mask=listed, other=0)
        value = tl.load(spread + place[None, :], mask=is_row[:, None] & listed[None, :], other=0.0)
        at = row_offset(neuron, columns)[:, None] + column[None, :]
        w = tl.load(weights + at, mask=listed[:, None] & inside[None, :], other=0.0)
        # Three products of TF32 parts: as exact as one of float32.
        total = tl.dot(value, w.to(tl.float32), total, input_precision="tf32x3")
    return total
