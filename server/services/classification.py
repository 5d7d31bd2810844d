"""Triton's classification extension: instead of an output's numbers, its largest ones with their places and names."""

from collections.abc import Sequence

import numpy as np

from lazyneuron.engine.requests import Array

__all__ = ["classified"]


def classified(
    array: Array, classes: int, labels: Sequence[str] | None, *, batched: bool
) -> tuple[list[int], list[bytes]]:
    """Return the `classes` largest elements of each example, the largest first.

    Parameters
    ----------
    array
        An output; behind the batch axis it is flattened.
    classes
        How many to name, at least 1; an output with fewer elements names them all.
    labels
        The classes' names; left out where they are not as many as an example has elements.
    batched
        Whether the first axis is one of examples.

    Returns
    -------
    The shape, [examples, classes] or [classes], and the elements: each `VALUE:INDEX` or `VALUE:INDEX:LABEL`, with the
    value in C's `%f`, as Triton writes them.
    """
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    numbers = rows.astype(np.float64)
    # Stable, and of the negated values: among equals the first comes first.
    order = np.argsort(-numbers, axis=1, kind="stable")[:, :classes]
    named = labels if labels is not None and len(labels) == rows.shape[1] else None
    names = [
        _name(value, index, named)
        for values, places in zip(numbers, order.tolist(), strict=True)
        for index, value in zip(places, values[places].tolist(), strict=True)
    ]
    return list(order.shape if batched else order.shape[1:]), names


def _name(value: float, index: int, labels: Sequence[str] | None) -> bytes:
    return (f"{value:f}:{index}" if labels is None else f"{value:f}:{index}:{labels[index]}").encode()
