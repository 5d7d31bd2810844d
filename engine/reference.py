"""The native operators' semantics in plain NumPy.

Written to be read, not to be fast: every kernel is tested against these functions. The semantics are fixed by
the project's design ("Fixed: the operators"); the ONNX domain is ``lazyneuron``, version 1.
"""

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
_BY_VALUE = ("relu", "relu2")


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


def sparse_down(
    pre: Float32,
    down: Weights,
    up_bias: Float32 | None = None,
    down_bias: Float32 | None = None,
    budget: Float32 | None = None,
    down_scale: Float32 | None = None,
    *,
    activation: str = "relu",
    top_k: int = 0,
    threshold: float = 0.0,
) -> tuple[Float32, Int32]:
    """Bias, activate and gate the hidden neurons, and project those that are kept.

    A row's value is ``activation(pre + up_bias)``. A neuron is active when its value (relu, relu2) or its
    magnitude (all others) is above the threshold. Of a row's active neurons the ``k`` largest are kept, ties
    going to the lower index, with ``k = min(F, ceil(budget * (top_k or F)))`` in float32, or ``top_k or F``
    without a budget. Then ``y = down_bias + sum of value * scale * down[neuron]`` over the kept neurons.

    A row with ``budget <= 0`` is skipped: zeros, without ``down_bias``, whatever else it holds. A NaN among a
    row's values or in its budget makes all of its output NaN and its count 0, and touches no other row.

    Parameters
    ----------
    pre : float32 [..., F]
        The up projection's result; all leading dimensions together are the rows.
    down : float32, float16 or int8 [F, D_out]
        The down projection, neuron-major. int8 needs ``down_scale``.
    up_bias : float32 [F], optional
    down_bias : float32 [D_out], optional
    budget : float32 [...], optional
        One number a row, in the shape of pre's leading dimensions.
    down_scale : float32 [F], optional
        Multiplies each neuron's row of ``down``.
    activation : str
        relu, relu2, gelu, gelu_tanh, silu or identity.
    top_k : int
        The most neurons to keep in a row; 0 is no cap.
    threshold : float
        Finite and not negative.

    Returns
    -------
    y : float32 [..., D_out]
        Sums are in float64, rounded once.
    active : int32 [...]
        How many neurons each row used.

    Raises
    ------
    ValueError
        A type, a shape or an attribute does not fit; the message says what was got and what was expected.
    """
    _check_types(pre, down, up_bias, down_bias, budget, down_scale)
    _check_shapes(pre, down, up_bias, down_bias, budget, down_scale)
    _check_attributes(pre.shape[-1], activation, top_k, threshold)
    neurons, columns = down.shape
    weights = down.astype(np.float64)
    if down_scale is not None:
        weights = weights * down_scale[:, None]
    bias = np.zeros(columns) if down_bias is None else down_bias.astype(np.float64)
    with np.errstate(all="ignore"):
        biased = pre if up_bias is None else pre + up_bias
        values = activate(biased, activation).reshape(-1, neurons)
    budgets = None if budget is None else budget.reshape(-1)
    y = np.zeros((len(values), columns), np.float32)
    active = np.zeros(len(values), np.int32)
    for row, value in enumerate(values):
        row_budget = None if budgets is None else budgets[row]
        if row_budget is not None and row_budget <= 0:
            continue
        if np.isnan(value).any() or (row_budget is not None and np.isnan(row_budget)):
            y[row] = np.nan
            continue
        limit = _row_limit(row_budget, top_k or neurons, neurons)
        kept = _keep(value, limit, threshold, by_value=activation in _BY_VALUE)
        with np.errstate(all="ignore"):
            terms = value[kept].astype(np.float64)[:, None] * weights[kept]
            y[row] = (bias + terms.sum(axis=0)).astype(np.float32)
        active[row] = len(kept)
    leading = pre.shape[:-1]
    return y.reshape(*leading, columns), active.reshape(leading)


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


def _check_types(
    pre: Float32,
    down: Weights,
    up_bias: Float32 | None,
    down_bias: Float32 | None,
    budget: Float32 | None,
    down_scale: Float32 | None,
) -> None:
    floats = {"pre": pre, "up_bias": up_bias, "down_bias": down_bias, "budget": budget, "down_scale": down_scale}
    for name, array in floats.items():
        if array is not None and array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}, expected float32")
    if down.dtype not in (np.float32, np.float16, np.int8):
        raise ValueError(f"down is {down.dtype}, expected float32, float16 or int8")
    if down.dtype == np.int8 and down_scale is None:
        raise ValueError("down is int8 and there is no down_scale, expected one float32 for each neuron")


def _check_shapes(
    pre: Float32,
    down: Weights,
    up_bias: Float32 | None,
    down_bias: Float32 | None,
    budget: Float32 | None,
    down_scale: Float32 | None,
) -> None:
    if down.ndim != 2 or 0 in down.shape:
        raise ValueError(f"down has shape {down.shape}, expected [F, D_out], both at least 1")
    neurons, columns = down.shape
    if pre.ndim == 0 or pre.shape[-1] != neurons:
        raise ValueError(f"pre has shape {pre.shape}, expected [..., F] with F = {neurons} as down has it")
    expected = {"up_bias": (neurons,), "down_bias": (columns,), "budget": pre.shape[:-1], "down_scale": (neurons,)}
    given = {"up_bias": up_bias, "down_bias": down_bias, "budget": budget, "down_scale": down_scale}
    for name, array in given.items():
        if array is not None and array.shape != expected[name]:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected[name]}")


def _check_attributes(neurons: int, activation: str, top_k: int, threshold: float) -> None:
    if activation not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation is {activation!r}, expected one of {expected}")
    if not 0 <= top_k <= neurons:
        raise ValueError(f"top_k is {top_k}, expected 0 (no cap) to F = {neurons}")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold is {threshold}, expected a finite number that is not negative")
