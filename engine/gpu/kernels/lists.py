"""Lists of candidates, one a row, ascending: from the screen's mask, or from scores."""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.activations import RELU2, activate
from lazyneuron.engine.gpu.kernels.common import (
    ALIGNED,
    GATE_MODE,
    POISONED,
    is_nan,
    kernel,
    places,
    row_offset,
    row_state,
)


@kernel
def list_masked(mask, budget, index, found, rows, neurons, flags, BLOCK_NEURONS: tl.constexpr):
    """One row's candidates, where its mask is not 0; in `found` how many, or the row's state."""
    row = tl.program_id(0)
    state = row_state(budget, row, flags)
    if state < 0:
        tl.store(found + row, state)
        return
    index += row_offset(row, neurons)
    # Said as a multiple, the length lets the compiler read vectors; pointers are aligned by agreement.
    if neurons % ALIGNED == 0:
        length = neurons // ALIGNED * ALIGNED
        count = _list_row(mask + row_offset(row, length), index, length, BLOCK_NEURONS)
    else:
        count = _list_row(mask + row_offset(row, neurons), index, neurons, BLOCK_NEURONS)
    tl.store(found + row, count)


@triton.jit
def _list_row(mask, index, neurons, BLOCK_NEURONS: tl.constexpr):
    count = tl.zeros_like(neurons)
    for start in range(0, neurons, BLOCK_NEURONS):
        neuron = start + tl.arange(0, BLOCK_NEURONS)
        candidate = tl.load(mask + neuron, mask=neuron < neurons, other=0) != 0
        tl.store(index + places(candidate, count), neuron, mask=candidate)
        count += tl.sum(candidate.to(tl.int32), 0)
    return count


@triton.jit
def _has_nan(values, count, BLOCK: tl.constexpr):
    nan = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        nan |= is_nan(tl.load(values + at, mask=at < count, other=0.0)).to(tl.int32)
    return tl.max(nan, 0) != 0


@kernel
def list_scored(
    scores,
    x,
    budget,
    index,
    factor,
    found,
    rows,
    neurons,
    depth,
    activation,
    score_threshold,
    flags,
    BLOCK_NEURONS: tl.constexpr,
):
    """One row's candidates by its scores: those above the threshold, in gate mode after the activation.

    In gate mode `factor` gets the activated scores of the list. A NaN in the scores, activated or not, poisons the row.
    One in x does so when the values are computed, of which there must be one; without candidates it poisons the row
    here.
    """
    row = tl.program_id(0)
    state = row_state(budget, row, flags)
    if state < 0:
        tl.store(found + row, state)
        return
    scores += row_offset(row, neurons)
    index += row_offset(row, neurons)
    factor += row_offset(row, neurons)
    gate_mode = (flags & GATE_MODE) != 0
    count = 0
    nan = tl.zeros([BLOCK_NEURONS], tl.int32)
    for start in range(0, neurons, BLOCK_NEURONS):
        neuron = start + tl.arange(0, BLOCK_NEURONS)
        inside = neuron < neurons
        score = tl.load(scores + neuron, mask=inside, other=0.0)
        size = score
        if gate_mode:
            score = activate(score, activation)
            size = tl.where(activation <= RELU2, score, tl.abs(score))
        nan |= is_nan(size).to(tl.int32)
        candidate = inside & (size > score_threshold)
        place = places(candidate, count)
        tl.store(index + place, neuron, mask=candidate)
        if gate_mode:
            tl.store(factor + place, score, mask=candidate)
        count += tl.sum(candidate.to(tl.int32), 0)
    poisoned = tl.max(nan, 0) != 0
    if count == 0:
        poisoned = poisoned | _has_nan(x + row_offset(row, depth), depth, BLOCK_NEURONS)
    tl.store(found + row, tl.where(poisoned, POISONED, count))
