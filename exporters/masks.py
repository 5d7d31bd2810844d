"""Which input tells a block's real rows from padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Axes, InputSpec
from lazyneuron.exporters.batches import Feed

__all__ = ["mask_for", "real_rows"]


def mask_for(inputs: Sequence[InputSpec], rows: Axes) -> InputSpec | None:
    """Return the mask input whose axes are `rows`, if there is one."""
    return next((spec for spec in inputs if spec.role == "mask" and spec.shape == rows), None)


def real_rows(inputs: Sequence[InputSpec], rows: Axes, feed: Feed) -> NDArray[np.bool_] | None:
    """Return which rows of a batch are real, in the shape of `rows`; None where all are."""
    mask = mask_for(inputs, rows)
    return None if mask is None else feed[mask.name] != 0
