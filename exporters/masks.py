"""Which input tells a block's real rows from padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Axes, InputSpec, mask_for
from lazyneuron.exporters.batches import Feed

__all__ = ["mask_for", "real_rows"]


def real_rows(inputs: Sequence[InputSpec], rows: Axes, feed: Feed) -> NDArray[np.bool_] | None:
    """Return which rows of a batch are real, in the shape of `rows`; None where all are."""
    mask = mask_for(inputs, rows)
    return None if mask is None else feed[mask.name] != 0
