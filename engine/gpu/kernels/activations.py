"""The activations, with the arithmetic of the CPU's kernels (engine/native/kernels/activations.h).

Triton's own exp is the hardware's fast one, whose error grows with the exponent, and it has no erfc. The coefficients
come from engine/native/kernels/fit_activations.py.
"""

import triton
import triton.language as tl

from lazyneuron.engine.gpu.kernels.common import is_nan

# The numbers of the C++ enumeration.
RELU = tl.constexpr(0)
RELU2 = tl.constexpr(1)
GELU = tl.constexpr(2)
GELU_TANH = tl.constexpr(3)
SILU = tl.constexpr(4)

# Adding and subtracting 1.5 * 2^23 rounds a float of up to 2^22 to the nearest integer, ties to even.
TO_INTEGER = tl.constexpr(12582912.0)


@triton.jit
def activate(x, activation):
    """Apply an activation that is known at run time; all others than these are the identity."""
    if activation == RELU:
        x = _at_least_zero(x)
    elif activation == RELU2:
        x = _at_least_zero(x)
        x = x * x
    elif activation == GELU:
        x = x * _normal_distribution(x)
    elif activation == GELU_TANH:
        x = x * _sigmoid(x * tl.fma(x * x, 0.0713548163, 1.59576912))
    elif activation == SILU:
        x = x * _sigmoid(x)
    return x


@triton.jit
def _at_least_zero(x):
    return tl.where(x < 0, 0.0, x)  # a NaN stays


@triton.jit
def _power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _exp_negative(high, low):
    """exp(high + low) for high <= 0 and |low| much below one; the power of two is applied in halves."""
    x = tl.where(high < -104.0, -104.0, high)
    steps = (x * 1.44269504 + TO_INTEGER) - TO_INTEGER
    r = (x - steps * 0.693145752) - steps * 1.42860677e-06 + low
    p = tl.fma(r, 0.00138131424, 0.00836941879)
    p = tl.fma(p, r, 0.0416684560)
    p = tl.fma(p, r, 0.166665152)
    p = tl.fma(p, r, 0.499999940)
    significand = 1.0 + tl.fma(r * r, p, r)
    n = tl.where(is_nan(steps), 0.0, steps).to(tl.int32)
    half = n >> 1
    result = significand * _power_of_two(half) * _power_of_two(n - half)
    return tl.where(high < -104.0, 0.0, result)


@triton.jit
def _sigmoid(z):
    """1 / (1 + exp(-z)), without overflow and without losing the negative tail."""
    e = _exp_negative(-tl.abs(z), 0.0)
    return tl.div_rn(tl.where(z < 0, e, 1.0), 1.0 + e)


@triton.jit
def _normal_distribution(x):
    """Compute the normal distribution function; its tail has no cancellation and x^2 / 2 is split in two."""
    size = tl.abs(x)
    a = tl.where(size < 15.0, size, 15.0)
    lead = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    high = -0.5 * (lead * lead)
    low = -0.5 * ((a - lead) * (a + lead))
    inverse = tl.div_rn(1.0 + tl.zeros_like(a), a + 3.0)
    s = (a - 3.0) * inverse
    p = tl.fma(s, 5.24014395e-05, -0.000202965515)
    p = tl.fma(p, s, -0.000946830551)
    p = tl.fma(p, s, 0.00101639051)
    p = tl.fma(p, s, 0.00693733105)
    p = tl.fma(p, s, -0.0104622589)
    p = tl.fma(p, s, -0.0472581536)
    p = tl.fma(p, s, 0.230017692)
    p = tl.fma(p, s, -0.509332180)
    p = tl.fma(p, s, 0.729083717)
    tail = p * inverse * _exp_negative(high, low)
    return tl.where(x < 0, tail, 1.0 - tail)
