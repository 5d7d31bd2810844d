"""What the kernels share: flags, a row's state, and offsets."""

import triton
import triton.language as tl

# The bits of `flags`.
BUDGET = tl.constexpr(1)
BIAS = tl.constexpr(2)
DOWN_BIAS = tl.constexpr(4)
DOWN_SCALE = tl.constexpr(8)
SCALE = tl.constexpr(16)
SHIFT = tl.constexpr(32)
STRETCH = tl.constexpr(64)
DRAW = tl.constexpr(128)
INDEX = tl.constexpr(256)
FACTOR = tl.constexpr(512)
BY_MAGNITUDE = tl.constexpr(1024)
GATE_MODE = tl.constexpr(2048)
PARTIAL = tl.constexpr(4096)

# What a row's count says when it is none; the same numbers as in engine/native/kernels/kernels.h.
POISONED = tl.constexpr(-1)  # the row holds a NaN: its output is NaN
SKIPPED = tl.constexpr(-2)  # the row has no budget: its output is zero

# Elements that a row's length must be a multiple of to be read in vectors.
ALIGNED = tl.constexpr(16)

# Sizes are numbers at run time, whatever their value: what is compiled ahead knows none of them.
_SIZES = ["rows", "neurons", "depth", "columns", "code_stride", "splits", "top_k", "activation", "flags"]
kernel = triton.jit(do_not_specialize=_SIZES)


@triton.jit
def row_state(budget, row, flags):
    """0 for a row that is worked on, else POISONED or SKIPPED."""
    share = tl.load(budget + row, mask=(flags & BUDGET) != 0, other=1.0)
    return tl.where(share > 0, 0, tl.where(share == share, SKIPPED, POISONED))


@triton.jit
def bound(count, flags, bit: tl.constexpr):
    """`count` where a flag is set, else 0: the end of what may be read of an optional input."""
    return tl.where((flags & bit) != 0, count, 0)


@triton.jit
def row_offset(row, stride):
    """Where a row begins, in 64 bits."""
    return row.to(tl.int64) * stride


@triton.jit
def is_nan(value):
    """Where a value is no number."""
    return value != value


@triton.jit
def places(taken, before):
    """Return the place in a list of each neuron that is taken, when `before` entries are in it already."""
    return before + tl.cumsum(taken.to(tl.int32), 0) - 1
