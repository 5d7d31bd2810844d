"""The certified screen: a row's codes, and the test of rows against neurons in int8.

The bound and its proof are the CPU's (engine/native/kernels/screen.h, engine/native/dispatch/screen.cc): a neuron is
skipped only when an upper bound of its value, less the threshold, is at most zero. Rows' codes are signed here, so
that nothing has to be corrected for an offset.
"""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.activations import TO_INTEGER
from lazyneuron.engine.gpu.kernels.common import ALIGNED, DRAW, SHIFT, STRETCH, bound, kernel, row_offset, row_state

LARGEST_CODE = tl.constexpr(126.99)  # so that neither rounding nor a draw below one passes 127
LARGEST_INVERSE = tl.constexpr(1.329227996e36)  # 2^120: rows of tiny values keep smaller codes
SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)
UNIT = tl.constexpr(2.0**-24)
NORM_SLACK = tl.constexpr(2.0**-47)
OVERFLOW = tl.constexpr(2.0**125)


@triton.jit
def _coordinates(x, shift, stretch, at, depth, flags):
    """(x - shift) * stretch: a row's values as the screen sees them; 0 past its end."""
    value = tl.load(x + at, mask=at < depth, other=0.0)
    value -= tl.load(shift + at, mask=at < bound(depth, flags, SHIFT), other=0.0)
    return value * tl.load(stretch + at, mask=at < bound(depth, flags, STRETCH), other=1.0)


@triton.jit
def _round_up(value):
    """Return a float32 that is not below a float64 >= 0; positive ones stay clear of the subnormals."""
    nearest = value.to(tl.float32)
    above = (nearest.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True)
    up = tl.where(nearest.to(tl.float64) < value, above, nearest)
    return tl.where(value > 0, tl.maximum(up, SMALLEST_NORMAL), up)


@kernel
def quantize_rows(
    x,
    budget,
    shift,
    stretch,
    draw,
    codes,
    inverse,
    norm,
    residual,
    dense,
    rows,
    depth,
    code_stride,
    flags,
    largest_norm,
    shift_norm,
    widest,
    underflow,
    BLOCK_DEPTH: tl.constexpr,
):
    """Make the codes and terms of one row; `dense` where no bound holds for it. A skipped row's inverse is 0."""
    row = tl.program_id(0)
    if row_state(budget, row, flags) < 0:
        tl.store(inverse + row, 0.0)
        tl.store(norm + row, 0.0)
        tl.store(residual + row, 0.0)
        tl.store(dense + row, 0)
        return
    x += row_offset(row, depth)
    stride = code_stride // ALIGNED * ALIGNED
    codes += row_offset(row, stride)

    largest = tl.zeros([BLOCK_DEPTH], tl.float32)
    strange = tl.zeros([BLOCK_DEPTH], tl.int32)
    for start in range(0, depth, BLOCK_DEPTH):
        at = start + tl.arange(0, BLOCK_DEPTH)
        value = _coordinates(x, shift, stretch, at, depth, flags)
        largest = tl.maximum(largest, tl.abs(value))
        strange |= (value - value != 0).to(tl.int32)  # infinity less itself is a NaN
    finite = tl.max(strange, 0) == 0
    size = tl.where(finite, tl.max(largest, 0), 0.0)
    scale = tl.minimum(tl.div_rn(LARGEST_CODE + size * 0, tl.where(size > 0, size, 1.0)), LARGEST_INVERSE)
    scale = tl.where(size > 0, scale, 1.0)

    squares = tl.zeros([BLOCK_DEPTH], tl.float32)
    errors = tl.zeros([BLOCK_DEPTH], tl.float32)
    draws = (flags & DRAW) != 0
    for start in range(0, stride, BLOCK_DEPTH):
        at = start + tl.arange(0, BLOCK_DEPTH)
        z = _coordinates(x, shift, stretch, at, depth, flags) * scale
        z = tl.where(finite, z, 0.0)
        drawn = tl.floor(z + tl.load(draw + at, mask=at < bound(depth, flags, DRAW), other=0.0))
        code = tl.where(draws, drawn, (z + TO_INTEGER) - TO_INTEGER)
        tl.store(codes + at, code.to(tl.int8), mask=at < stride)
        squares += z * z
        errors += (z - code) * (z - code)

    n = depth.to(tl.float64)
    exact_scale = scale.to(tl.float64)
    factor = 1.0 + (n + 8.0) * 2.0**-23
    z_norm = tl.sqrt(tl.sum(squares, 0).to(tl.float64)) * factor
    error = tl.sqrt(tl.sum(errors, 0).to(tl.float64)) * factor
    # Hoeffding's bound, where the rounding is stochastic.
    hoeffding = tl.minimum(error, widest) + tl.where(z_norm > 0, 2.0**-16 * tl.sqrt(n), 0.0)
    error = tl.where(draws, hoeffding, error)
    # Without a shift a row of zeros is exact, and need not make candidates of neurons without a bias.
    inexact = (z_norm > 0) | ((flags & SHIFT) != 0)
    error += tl.where(inexact, 8.0 * UNIT * z_norm + underflow * exact_scale, 0.0)
    padded_norm = tl.where(z_norm > 0, z_norm + n * NORM_SLACK * exact_scale, 0.0)
    # No partial sum of any neuron overflows, in any order, if the product of norms is far from doing so.
    steepest = n * 0.0 + largest_norm
    calm = (z_norm * steepest <= OVERFLOW * exact_scale) & (shift_norm * steepest <= OVERFLOW)
    tl.store(inverse + row, scale)
    tl.store(norm + row, _round_up(padded_norm))
    tl.store(residual + row, _round_up(error))
    tl.store(dense + row, tl.where(finite & calm, 0, 1))


@kernel
def screen(
    codes,
    neuron_codes,
    constant,
    spread,
    size,
    inverse,
    norm,
    residual,
    dense,
    mask,
    rows,
    neurons,
    code_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NEURONS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """`mask` is 1 for each neuron of each row, unless it may be skipped."""
    first_row, first_neuron = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1) * BLOCK_NEURONS
    in_rows, in_neurons = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_NEURONS)
    row, neuron = first_row + in_rows, first_neuron + in_neurons
    is_row, is_neuron = row < rows, neuron < neurons
    row_inverse = tl.load(inverse + row, mask=is_row, other=0.0)
    if tl.max(row_inverse, 0) == 0:  # padding alone
        return

    # Codes go in steps of 64 bytes, with zeros after the depth; a step of the loop never goes past a row's end.
    stride = code_stride // BLOCK_DEPTH * BLOCK_DEPTH
    at = tl.arange(0, BLOCK_DEPTH)
    # 64 bits lead to a tile and 32 about it. Rows past the end read the last row, and write nothing.
    row_codes = codes + row_offset(first_row, stride)
    row_codes += (tl.minimum(in_rows, rows - 1 - first_row) * stride)[:, None] + at[None, :]
    other_codes = neuron_codes + row_offset(first_neuron, stride)
    other_codes += (tl.minimum(in_neurons, neurons - 1 - first_neuron) * stride)[None, :] + at[:, None]
    total = tl.zeros([BLOCK_ROWS, BLOCK_NEURONS], tl.int32)
    for _ in range(0, stride, BLOCK_DEPTH):
        total = tl.dot(tl.load(row_codes), tl.load(other_codes), total, out_dtype=tl.int32)
        row_codes += BLOCK_DEPTH
        other_codes += BLOCK_DEPTH

    neuron_constant = tl.load(constant + neuron, mask=is_neuron, other=0.0)
    neuron_spread = tl.load(spread + neuron, mask=is_neuron, other=0.0)
    neuron_size = tl.load(size + neuron, mask=is_neuron, other=0.0)
    row_norm = tl.load(norm + row, mask=is_row, other=0.0)
    row_residual = tl.load(residual + row, mask=is_row, other=0.0)
    upper = total.to(tl.float32) + neuron_constant[None, :] * row_inverse[:, None]
    upper += neuron_spread[None, :] * row_norm[:, None]
    upper += neuron_size[None, :] * row_residual[:, None]
    no_bound = tl.load(dense + row, mask=is_row, other=0) != 0
    # A NaN (infinite terms of both signs) proves nothing, so it does not skip.
    skipped = (upper <= 0) & (no_bound == 0)[:, None]
    mask += row_offset(first_row, neurons) + first_neuron
    at_mask = (in_rows * neurons)[:, None] + in_neurons[None, :]
    tl.store(mask + at_mask, tl.where(skipped, 0, 1).to(tl.int8), mask=is_row[:, None] & is_neuron[None, :])
