"""Which neurons a row keeps: bias, activation, threshold and compaction in one pass, then top-k on what is left.

Top-k is a bisection on the magnitudes' bits, as on the CPU: for floats without sign and NaN the integers' order is the
floats'. It counts the compacted list, which is short, some ten times; there is no sorting, and of equal ones the first
are kept.
"""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.activations import activate
from lazyneuron.engine.gpu.kernels.common import (
    BIAS,
    BUDGET,
    BY_MAGNITUDE,
    DOWN_SCALE,
    FACTOR,
    INDEX,
    POISONED,
    bound,
    is_nan,
    kernel,
    places,
    row_offset,
    row_state,
)

INFINITY_BITS = tl.constexpr(0x7F800000)
MAGNITUDE_BITS = tl.constexpr(0x7FFFFFFF)


@kernel
def select(
    values,
    factor,
    index,
    found,
    bias,
    down_scale,
    budget,
    kept,
    coefficient,
    counts,
    active,
    candidates,
    rows,
    neurons,
    top_k,
    activation,
    threshold,
    flags,
    BLOCK_NEURONS: tl.constexpr,
):
    """One row's kept neurons, ascending, and their coefficients; `counts` is how many, or the row's state.

    With INDEX the values are those of a list, else of all neurons. With FACTOR a value is multiplied by its activated
    factor, else activated itself.
    """
    row = tl.program_id(0)
    listed = (flags & INDEX) != 0
    state = row_state(budget, row, flags)
    entries = tl.where(state < 0, state, neurons)
    if listed:
        entries = tl.load(found + row)
        tl.store(candidates + row, tl.maximum(entries, 0))
    if entries < 0:
        tl.store(counts + row, entries)
        tl.store(active + row, 0)
        return
    offset = row_offset(row, neurons)
    kept += offset
    coefficient += offset
    limit = _row_limit(budget, row, neurons, top_k, flags)
    scaled = (flags & DOWN_SCALE) != 0
    count, poisoned = _compact(
        values + offset, factor + offset, index + offset, bias, down_scale, kept, coefficient,
        entries, activation, threshold, scaled & (entries <= limit), flags, BLOCK_NEURONS,
    )  # fmt: skip
    if entries > limit:
        tl.debug_barrier()
        if count > limit:
            count = _keep_largest(kept, coefficient, count, limit, BLOCK_NEURONS)
            tl.debug_barrier()
        if scaled:
            for start in range(0, count, BLOCK_NEURONS):
                place = start + tl.arange(0, BLOCK_NEURONS)
                inside = place < count
                factors = tl.load(down_scale + tl.load(kept + place, mask=inside, other=0), mask=inside, other=1.0)
                value = tl.load(coefficient + place, mask=inside, other=0.0)
                tl.store(coefficient + place, value * factors, mask=inside)
    tl.store(counts + row, tl.where(poisoned, POISONED, count))
    tl.store(active + row, tl.where(poisoned, 0, count))


@triton.jit
def _row_limit(budget, row, neurons, top_k, flags):
    """At most how many neurons a row with a budget keeps: ceil(budget * top_k), top_k 0 as all."""
    most = tl.where(top_k > 0, top_k, neurons)
    share = tl.load(budget + row, mask=(flags & BUDGET) != 0, other=1.0)
    wanted = tl.ceil(share * most.to(tl.float32))
    all_of_them = neurons.to(tl.float32)
    limit = tl.where(wanted >= all_of_them, neurons, tl.minimum(wanted, all_of_them).to(tl.int32))
    return tl.where((flags & BUDGET) != 0, limit, most)


@triton.jit
def _compact(
    values,
    factor,
    index,
    bias,
    down_scale,
    kept,
    coefficient,
    entries,
    activation,
    threshold,
    scale_now,
    flags,
    BLOCK_NEURONS: tl.constexpr,
):
    """List the active neurons; also whether any value is a NaN."""
    listed, by_factor = (flags & INDEX) != 0, (flags & FACTOR) != 0
    by_magnitude = (flags & BY_MAGNITUDE) != 0
    count = 0
    nan = tl.zeros([BLOCK_NEURONS], tl.int32)
    for start in range(0, entries, BLOCK_NEURONS):
        place = start + tl.arange(0, BLOCK_NEURONS)
        inside = place < entries
        neuron = place
        if listed:
            neuron = tl.load(index + place, mask=inside, other=0)
        value = tl.load(values + place, mask=inside, other=0.0)
        value += tl.load(bias + neuron, mask=place < bound(entries, flags, BIAS), other=0.0)
        activated = value
        if by_factor:
            activated = tl.load(factor + place, mask=inside, other=0.0)
        activated = activate(activated, activation)
        if by_factor:
            value *= activated
        else:
            value = activated
        nan |= (inside & is_nan(value)).to(tl.int32)
        size = tl.where(by_magnitude, tl.abs(value), value)
        is_active = inside & (size > threshold)
        if scale_now:
            value *= tl.load(down_scale + neuron, mask=is_active, other=1.0)
        to = places(is_active, count)
        tl.store(kept + to, neuron, mask=is_active)
        tl.store(coefficient + to, value, mask=is_active)
        count += tl.sum(is_active.to(tl.int32), 0)
    return count, tl.max(nan, 0) != 0


@triton.jit
def _magnitudes(coefficient, place, count):
    """Return the bits of some entries' magnitudes; 0 past the list's end, above no key."""
    value = tl.load(coefficient + place, mask=place < count, other=0.0)
    return value.to(tl.int32, bitcast=True) & MAGNITUDE_BITS


@triton.jit
def _keep_largest(kept, coefficient, count, limit, BLOCK_NEURONS: tl.constexpr):
    """Leave the `limit` largest of more than that many entries, in their order."""
    low = tl.zeros_like(count)  # more than `limit` are above it: active ones are above zero
    high = low + INFINITY_BITS  # at most `limit` are above it
    above_high = tl.zeros_like(count)
    while high - low > 1:
        middle = low + (high - low) // 2
        above = tl.zeros([BLOCK_NEURONS], tl.int32)
        for start in range(0, count, BLOCK_NEURONS):
            bits = _magnitudes(coefficient, start + tl.arange(0, BLOCK_NEURONS), count)
            above += (bits > middle).to(tl.int32)
        total = tl.sum(above, 0)
        above_high = tl.where(total <= limit, total, above_high)
        high = tl.where(total <= limit, middle, high)
        low = tl.where(total >= limit, middle, low)  # just `limit`: both, which ends the search

    ties = limit - above_high
    written = tl.zeros_like(count)
    tied = tl.zeros_like(count)
    for start in range(0, count, BLOCK_NEURONS):
        place = start + tl.arange(0, BLOCK_NEURONS)
        bits = _magnitudes(coefficient, place, count)
        equal = bits == high
        stays = (bits > high) | (equal & (places(equal, tied) < ties))
        neuron = tl.load(kept + place, mask=stays, other=0)
        value = tl.load(coefficient + place, mask=stays, other=0.0)
        # What is written lies before what other threads have still to read, once all have read this far.
        tl.debug_barrier()
        to = places(stays, written)
        tl.store(kept + to, neuron, mask=stays)
        tl.store(coefficient + to, value, mask=stays)
        tied += tl.sum(equal.to(tl.int32), 0)
        written += tl.sum(stays.to(tl.int32), 0)
    return limit
