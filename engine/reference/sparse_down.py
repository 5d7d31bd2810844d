"""SparseDown: bias, activation, gating and the down projection."""

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
    floats = {"pre": pre, "up_bias": up_bias, "down_bias": down_bias, "budget": budget, "down_scale": down_scale}
    check_dtypes(floats, {"down": (down, down_scale)})
    _check_shapes(pre, down, up_bias, down_bias, budget, down_scale)
    check_attributes(pre.shape[-1], activation, top_k, threshold)
    with np.errstate(all="ignore"):
        values = activate(pre if up_bias is None else pre + up_bias, activation)
    y, active = project_kept(
        values.reshape(-1, pre.shape[-1]),
        down,
        down_bias,
        down_scale,
        None if budget is None else budget.reshape(-1),
        top_k=top_k,
        threshold=threshold,
        by_value=activation in BY_VALUE,
    )
    return y.reshape(*pre.shape[:-1], down.shape[1]), active.reshape(pre.shape[:-1])


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
