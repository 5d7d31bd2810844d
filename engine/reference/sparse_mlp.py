"""SparseMLP: the whole block, computing only the neurons that its mode lets through."""

import math

import numpy as np

from lazyneuron.engine.reference.gating import (
    BY_VALUE,
    Float32,
    Int32,
    Weights,
    activate,
    check_attributes,
    check_dtypes,
    project_kept,
)

MODES = ("certified", "predictor", "gate")


def sparse_mlp(
    x: Float32,
    up: Weights,
    down: Weights,
    up_bias: Float32 | None = None,
    down_bias: Float32 | None = None,
    budget: Float32 | None = None,
    scores: Float32 | None = None,
    gate: Weights | None = None,
    up_scale: Float32 | None = None,
    down_scale: Float32 | None = None,
    gate_scale: Float32 | None = None,
    screen_shift: Float32 | None = None,
    screen_scale: Float32 | None = None,
    *,
    mode: str = "certified",
    activation: str = "relu",
    top_k: int = 0,
    threshold: float = 0.0,
    score_threshold: float = 0.0,
    miss_probability: float = 0.0,
) -> tuple[Float32, Int32, Int32]:
    """Compute an MLP block's candidates exactly, gate them, and project those that are kept.

    A neuron's projection is ``u = (x . up[f]) * up_scale[f] + up_bias[f]``, likewise ``g`` of ``gate`` without a
    bias. A neuron that is no candidate has the value 0. The others, and which they are:

    ``certified``
        ``activation(u)``, with relu or relu2. Every neuron is a candidate here. The operator leaves out those whose
        value it can prove to be at or below the threshold, which changes neither ``y`` nor ``active`` (with
        ``miss_probability`` p > 0, except with that probability a neuron). A row of x that is not finite has all F.
    ``predictor``
        ``activation(u)``, with ``gate`` given ``activation(g) * u``, for neurons with ``scores > score_threshold``.
    ``gate``
        ``activation(scores) * u``, for neurons whose ``activation(scores)`` is above ``score_threshold`` (relu, relu2;
        in magnitude otherwise). At 0 nothing is lost.

    Gating and projection are ``sparse_down``'s, for the values of gated blocks by magnitude whatever the activation,
    since their sign is the up projection's. Likewise the budget. A NaN among a row's x, scores, values or budget
    makes all of its output NaN; so does one among its activated scores in gate mode (gelu, gelu_tanh and silu of -inf).

    Parameters
    ----------
    x : float32 [..., D]
    up, gate : float32, float16 or int8 [F, D]
        Neuron-major; int8 needs its ``*_scale``.
    down : float32, float16 or int8 [F, D_out]
    up_bias, up_scale, down_scale, gate_scale : float32 [F], optional
    down_bias : float32 [D_out], optional
    budget : float32 [...], optional
    scores : float32 [..., F], optional
    screen_shift, screen_scale : float32 [D], optional
        How the certified screen sees x, (x - shift) / scale; they decide how many candidates there are, not the result.

    Returns
    -------
    y : float32 [..., D_out]
    active : int32 [...]
    candidates : int32 [...]
        In certified mode the fewest possible, the neurons above the threshold; the operator has between these and F.

    Raises
    ------
    ValueError
        A type, a shape or an attribute does not fit; the message says what was got and what was expected.
    """
    given = dict(zip(_NAMES, (x, up_bias, down_bias, budget, scores, up_scale, down_scale, gate_scale), strict=True))
    given |= {"screen_shift": screen_shift, "screen_scale": screen_scale}
    check_dtypes(given, {"up": (up, up_scale), "down": (down, down_scale), "gate": (gate, gate_scale)})
    _check_mode(mode, activation, scores, gate, score_threshold, miss_probability)
    _check_shapes(x, up, down, gate, given)
    check_attributes(len(up), activation, top_k, threshold)

    rows = x.reshape(-1, x.shape[-1])
    row_scores = np.zeros((len(rows), len(up)), np.float32) if scores is None else scores.reshape(-1, len(up))
    value = _projection(rows, up, up_scale, up_bias)
    by_value = activation in BY_VALUE and mode != "gate" and gate is None
    candidate = np.ones(value.shape, bool)
    told = row_scores  # a NaN in it is the row's
    with np.errstate(all="ignore"):
        if mode == "gate":
            told = factor = activate(row_scores, activation)
            size = factor if activation in BY_VALUE else np.abs(factor)
            candidate = size > np.float32(score_threshold)
            value = factor * value
        elif gate is not None:
            value = activate(_projection(rows, gate, gate_scale, None), activation) * value
        else:
            value = activate(value, activation)
        if mode == "predictor":
            candidate = row_scores > np.float32(score_threshold)
    value = np.where(candidate, value, np.float32(0))
    value[np.isnan(rows).any(axis=1) | np.isnan(told).any(axis=1)] = np.nan

    row_budget = None if budget is None else budget.reshape(-1)
    y, active = project_kept(
        value, down, down_bias, down_scale, row_budget, top_k=top_k, threshold=threshold, by_value=by_value
    )
    if mode == "certified":
        counts = np.where(np.isfinite(rows).all(axis=1), (value > threshold).sum(axis=1), len(up))
    else:
        counts = np.where(np.isnan(told).any(axis=1), 0, candidate.sum(axis=1))
    if row_budget is not None:
        counts = np.where(row_budget > 0, counts, 0)
    leading = x.shape[:-1]
    return (
        y.reshape(*leading, down.shape[1]),
        active.reshape(leading),
        counts.astype(np.int32).reshape(leading),
    )


def _projection(rows: Float32, weights: Weights, scale: Float32 | None, bias: Float32 | None) -> Float32:
    """Project rows [rows, D] on neuron-major weights [F, D], in float64, rounded once."""
    with np.errstate(all="ignore"):
        result = rows.astype(np.float64) @ weights.astype(np.float64).T
        result = result if scale is None else result * scale
        result = result if bias is None else result + bias
        return result.astype(np.float32)


_NAMES = ("x", "up_bias", "down_bias", "budget", "scores", "up_scale", "down_scale", "gate_scale")


def _check_mode(
    mode: str,
    activation: str,
    scores: Float32 | None,
    gate: Weights | None,
    score_threshold: float,
    miss_probability: float,
) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    if mode == "certified" and activation not in BY_VALUE:
        raise ValueError(f"activation is {activation!r}, expected relu or relu2 with mode 'certified'")
    if mode == "certified" and (scores is not None or gate is not None):
        raise ValueError("scores or gate is given with mode 'certified', expected mode 'predictor' or 'gate'")
    if mode != "certified" and scores is None:
        raise ValueError(f"scores is missing, expected [..., F] with mode {mode!r}")
    if mode == "gate" and gate is not None:
        raise ValueError("gate is given with mode 'gate', expected mode 'predictor'")
    if not math.isfinite(score_threshold):
        raise ValueError(f"score_threshold is {score_threshold}, expected a finite number")
    if not 0 <= miss_probability < 1:
        raise ValueError(f"miss_probability is {miss_probability}, expected 0 to below 1")


def _check_shapes(
    x: Float32, up: Weights, down: Weights, gate: Weights | None, given: dict[str, Float32 | None]
) -> None:
    if up.ndim != 2 or 0 in up.shape:
        raise ValueError(f"up has shape {up.shape}, expected [F, D], both at least 1")
    neurons, depth = up.shape
    if down.ndim != 2 or len(down) != neurons or down.shape[1] == 0:
        raise ValueError(f"down has shape {down.shape}, expected [F, D_out] with F = {neurons} as up has it")
    if gate is not None and gate.shape != up.shape:
        raise ValueError(f"gate has shape {gate.shape}, expected {up.shape}")
    if x.ndim == 0 or x.shape[-1] != depth:
        raise ValueError(f"x has shape {x.shape}, expected [..., D] with D = {depth} as up has it")
    each_neuron = dict.fromkeys(("up_bias", "up_scale", "down_scale", "gate_scale"), (neurons,))
    each_column = {"down_bias": (down.shape[1],), "screen_shift": (depth,), "screen_scale": (depth,)}
    each_row = {"budget": x.shape[:-1], "scores": (*x.shape[:-1], neurons)}
    for name, expected in {**each_neuron, **each_column, **each_row}.items():
        array = given[name]
        if array is not None and array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
