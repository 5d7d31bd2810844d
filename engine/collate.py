"""Joining requests into one batch, and cutting the batch's results back into theirs."""

from collections.abc import Mapping, Sequence

import numpy as np

from lazyneuron.engine.artifact import BATCH_AXIS, Axes, InputSpec, Manifest
from lazyneuron.engine.requests import Array, Request

__all__ = ["batch_axes", "cut", "join"]


def batch_axes(requests: Sequence[Request]) -> dict[str, int]:
    """Return the batch's length of each symbolic axis: the sum along the batch axis, the greatest elsewhere."""
    names = requests[0].axes
    axes = {name: max(r.axes[name] for r in requests) for name in names}
    if BATCH_AXIS in axes:
        axes[BATCH_AXIS] = sum(r.batch for r in requests)
    return axes


def join(
    manifest: Manifest, requests: Sequence[Request], shape: Mapping[str, int] | None = None
) -> dict[str, Array]:  # fmt: skip
    """Return the batch's inputs: the requests' own, padded to the longest and joined along the batch axis.

    Padding is filled with each input's `pad`; a mask's with zeros, so that padding rows carry budget 0.

    Parameters
    ----------
    manifest
        The model's.
    requests
        At least one.
    shape
        The length of each symbolic axis to pad to, no less than the batch's own; further examples are padding, of
        budget 0. None: no more than the batch needs.
    """
    axes = batch_axes(requests) if shape is None else shape
    alone = len(requests) == 1 and shape is None
    feed = {
        spec.name: requests[0].inputs[spec.name] if alone else _join_input(spec, requests, axes)
        for spec in manifest.inputs
    }
    if manifest.budget_input is not None:
        budgets = np.repeat(np.asarray([r.budget for r in requests], np.float32), [r.batch for r in requests])
        if shape is not None and (more := shape.get(BATCH_AXIS, len(budgets)) - len(budgets)):
            budgets = np.pad(budgets, (0, more))
        feed[manifest.budget_input] = budgets
    return feed


def _join_input(spec: InputSpec, requests: Sequence[Request], axes: Mapping[str, int]) -> Array:
    size = [axes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    joined = np.full(size, 0 if spec.role == "mask" else spec.pad or 0, spec.dtype)
    first = 0
    for request in requests:
        array = request.inputs[spec.name]
        joined[(slice(first, first + request.batch), *map(slice, array.shape[1:]))] = array
        first += request.batch
    return joined


def cut(array: Array, axes: Axes, request: Request, first: int) -> Array:
    """Return the part of a batch's `array` that is `request`'s, whose first example stands at `first`.

    Parameters
    ----------
    array
        An output or a count of the batch.
    axes
        The names or sizes of its axes.
    request
        The request.
    first
        The index of its first example along the batch axis.
    """
    index = [
        slice(first, first + request.batch)
        if axis == BATCH_AXIS
        else slice(request.axes[axis])
        if isinstance(axis, str) and axis in request.axes
        else slice(None)
        for axis in axes
    ]
    return array[tuple(index)]
