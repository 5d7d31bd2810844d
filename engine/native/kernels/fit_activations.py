"""Fit the polynomial coefficients that activations.h uses, and print them as C++.

Run it with Python and NumPy alone: ``python fit_activations.py``. Each fit is a weighted least-squares
problem at Chebyshev nodes, re-weighted (Lawson's method) until the relative error is nearly equal-ripple,
then rounded to float32 from the highest degree down, refitting the rest, so that rounding costs little.
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray


def chebyshev_nodes(low: float, high: float, count: int) -> Array:
    """Return ``count`` Chebyshev nodes on [low, high]."""
    angle = (np.arange(count) + 0.5) * math.pi / count
    return 0.5 * (low + high) + 0.5 * (high - low) * np.cos(angle)


def lawson(basis: Array, target: Array, rounds: int = 60) -> Array:
    """Solve ``basis @ c ~ target`` for a nearly equal-ripple residual."""
    weight = np.ones(len(target))
    coefficients = np.zeros(basis.shape[1])
    for _ in range(rounds):
        root = np.sqrt(weight)
        coefficients, *_ = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)
        weight *= np.abs(basis @ coefficients - target) + 1e-30
        weight /= weight.sum()
    return coefficients


def fit_float32(basis: Array, target: Array) -> Array:
    """Fit, then fix one coefficient after another to float32 and refit the ones that are left."""
    fixed = np.zeros(basis.shape[1])
    rest = target.copy()
    for column in range(basis.shape[1] - 1, -1, -1):
        free = lawson(basis[:, : column + 1], rest)
        fixed[column] = np.float32(free[column])
        rest -= basis[:, column] * fixed[column]
    return fixed


def fit_exp(terms: int = 5) -> Array:
    """exp(r) = 1 + r + r^2 * sum c_i r^i on |r| <= ln(2) / 2, relative error."""
    bound = 0.5 * math.log(2) * 1.01  # rounding to the nearest integer leaves a little more than half
    r = chebyshev_nodes(-bound, bound, 4000)
    powers = np.stack([r ** (2 + i) for i in range(terms)], axis=1)
    scale = np.exp(-r)
    return fit_float32(powers * scale[:, None], (np.exp(r) - 1 - r) * scale)


def gaussian_tail(x: float) -> float:
    """0.5 * erfcx(x / sqrt 2): the normal distribution's upper tail without its exp(-x^2 / 2)."""
    return 0.5 * math.erfc(x / math.sqrt(2)) * math.exp(0.5 * x * x)


def fit_tail(k: float, terms: int, high: float = 14.6) -> Array:
    """(x + k) * tail(x) = sum c_i s^i with s = (x - k) / (x + k), 0 <= x <= high, relative error."""
    s = chebyshev_nodes(-1.0, (high - k) / (high + k), 4000)
    x = k * (1 + s) / (1 - s)
    value = np.array([gaussian_tail(v) for v in x]) * (x + k)
    powers = np.stack([s**i for i in range(terms)], axis=1)
    return fit_float32(powers / value[:, None], np.ones_like(value))


def split_ln2(bits: int = 15) -> tuple[float, float]:
    """Split ln 2 into a part of few bits, whose product with a small integer is exact, and the rest."""
    high = math.floor(math.log(2) * 2**bits) / 2**bits
    return high, math.log(2) - high


def relative_error(value: Callable[[Array], Array], x: Array, exact: Array) -> float:
    """Largest relative error of ``value`` at ``x``."""
    return float(np.max(np.abs(value(x) / exact - 1)))


def show(name: str, coefficients: Array, error: float) -> None:
    """Print one C++ array."""
    body = ", ".join(f"{np.float32(c):#.9g}f" for c in coefficients)
    print(f"// largest relative error before rounding: {error:.1e}")
    print(f"constexpr float {name}[] = {{{body}}};")


def main() -> None:
    """Print everything that activations.h holds."""
    high, low = split_ln2()
    print(f"constexpr float kLn2High = {high:.9g}f, kLn2Low = {np.float32(low):.9g}f;")
    exp = fit_exp()
    r = np.linspace(-0.35, 0.35, 20001)
    value = 1 + r + r * r * np.polyval(exp[::-1], r)
    show("kExp", exp, float(np.max(np.abs(value / np.exp(r) - 1))))
    k, terms = 3.0, 10
    tail = fit_tail(k, terms)
    x = np.linspace(0, 14.5, 20001)
    exact = np.array([gaussian_tail(v) for v in x])
    error = relative_error(lambda v: np.polyval(tail[::-1], (v - k) / (v + k)) / (v + k), x, exact)
    show("kTail", tail, error)


if __name__ == "__main__":
    main()
