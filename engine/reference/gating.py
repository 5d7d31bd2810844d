"""What the operators share: activations, and which neurons a row keeps."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Weights = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _relu(x: Float32) -> Float32:
    return np.where(x < 0, np.float32(0), x)


def _relu2(x: Float32) -> Float32:
    return np.square(_relu(x))


def _identity(x: Float32) -> Float32:
    return x


def _gelu(x: Float32) -> Float32:
    """Compute x Phi(x), Phi as 0.5 erfc(-x / sqrt 2): no cancellation for negative x."""
    wide = x.astype(np.float64)
    phi: Float64 = 0.5 * _erfc(wide / -math.sqrt(2.0))
    return (wide * phi).astype(np.float32)


def _sigmoid(z: Float64) -> Float64:
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1.0) / (1.0 + small)


def _gelu_tanh(x: Float32) -> Float32:
    """0.5 x (1 + tanh u) = x sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    wide = x.astype(np.float64)
    u = math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide**3)
    return (wide * _sigmoid(2.0 * u)).astype(np.float32)


def _silu(x: Float32) -> Float32:
    wide = x.astype(np.float64)
    return (wide * _sigmoid(wide)).astype(np.float32)


# relu, relu2 and identity stay in float32, as in the kernels, so that which neurons are active is the same to
# the bit; the others are computed in float64 and rounded once.
ACTIVATIONS: dict[str, Callable[[Float32], Float32]] = {
    "relu": _relu,
    "relu2": _relu2,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "identity": _identity,
}
# Compared by value; the others are compared by magnitude.
BY_VALUE = ("relu", "relu2")


def activate(x: Float32, activation: str) -> Float32:
    """Apply an activation elementwise.

    Parameters
    ----------
    x : float32 array of any shape
    activation : str
        A key of ``ACTIVATIONS``.

    Returns
    -------
    float32 array of x's shape
        A NaN stays a NaN. ``gelu``, ``gelu_tanh`` and ``silu`` of minus infinity are NaN, as in PyTorch.

    Raises
    ------
    ValueError
        The activation is unknown.
    """
    if activation not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation is {activation!r}, expected one of {expected}")
    with np.errstate(all="ignore"):
        return ACTIVATIONS[activation](x)


def project_kept(
    values: Float32,
    down: Weights,
    down_bias: Float32 | None,
    down_scale: Float32 | None,
    budget: Float32 | None,
    *,
    top_k: int,
    threshold: float,
    by_value: bool,
) -> tuple[Float32, Int32]:
    """Gate the hidden neurons' values and project those that are kept.

    A row without a budget is skipped, one with a NaN is poisoned; see ``sparse_down``.

    Parameters
    ----------
    values : float32 [rows, F]
    down, down_bias, down_scale
        As in ``sparse_down``.
    budget : float32 [rows], optional
    by_value : bool
        Neurons are compared by value, else by magnitude.

    Returns
    -------
    y : float32 [rows, D_out]
    active : int32 [rows]
    """
    neurons, columns = down.shape
    weights = down.astype(np.float64)
    if down_scale is not None:
        weights = weights * down_scale[:, None]
    bias = np.zeros(columns) if down_bias is None else down_bias.astype(np.float64)
    y = np.zeros((len(values), columns), np.float32)
    active = np.zeros(len(values), np.int32)
    for row, value in enumerate(values):
        row_budget = None if budget is None else budget[row]
        if row_budget is not None and row_budget <= 0:
            continue
        if np.isnan(value).any() or (row_budget is not None and np.isnan(row_budget)):
            y[row] = np.nan
            continue
        limit = _row_limit(row_budget, top_k or neurons, neurons)
        kept = _keep(value, limit, threshold, by_value=by_value)
        with np.errstate(all="ignore"):
            terms = value[kept].astype(np.float64)[:, None] * weights[kept]
            y[row] = (bias + terms.sum(axis=0)).astype(np.float32)
        active[row] = len(kept)
    return y, active


def _row_limit(budget: np.float32 | None, k: int, neurons: int) -> int:
    """k_row = ceil(budget * k), at most all neurons."""
    if budget is None:
        return k
    with np.errstate(over="ignore"):
        wanted = np.ceil(np.float32(budget) * np.float32(k))
    return neurons if wanted >= neurons else int(wanted)


def _keep(value: Float32, limit: int, threshold: float, *, by_value: bool) -> NDArray[np.intp]:
    """Return the kept neurons of one row, ascending."""
    size = value if by_value else np.abs(value)
    active = np.flatnonzero(size > np.float32(threshold))
    largest_first = np.argsort(-size[active], kind="stable")  # stable: ties stay in the order of their index
    return np.sort(active[largest_first[:limit]])


def check_attributes(neurons: int, activation: str, top_k: int, threshold: float) -> None:
    """Raise ValueError for a gating attribute that does not fit."""
    if activation not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation is {activation!r}, expected one of {expected}")
    if not 0 <= top_k <= neurons:
        raise ValueError(f"top_k is {top_k}, expected 0 (no cap) to F = {neurons}")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold is {threshold}, expected a finite number that is not negative")


def check_dtypes(floats: dict[str, Float32 | None], matrices: dict[str, tuple[Weights | None, Float32 | None]]) -> None:
    """Raise ValueError for an array of the wrong type; a matrix comes with its scales, which int8 needs."""
    for name, array in floats.items():
        if array is not None and array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}, expected float32")
    for name, (matrix, scale) in matrices.items():
        if matrix is None:
            continue
        if matrix.dtype not in (np.float32, np.float16, np.int8):
            raise ValueError(f"{name} is {matrix.dtype}, expected float32, float16 or int8")
        if matrix.dtype == np.int8 and scale is None:
            raise ValueError(f"{name} is int8 and there is no {name}_scale, expected one float32 for each neuron")
