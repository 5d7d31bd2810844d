"""The certified screen's shift and scale per channel: what makes it tight. Any values are sound."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelSums", "Screen", "balanced"]


_WIDEST = 1e4
"""No channel is scaled this many times more than the middle one: float32 has to hold what is scaled."""


@dataclass(frozen=True, slots=True)
class Screen:
    """The operands `screen_shift` and `screen_scale` of `SparseMLP`, float32 [d_model] each."""

    shift: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(slots=True)
class ChannelSums:
    """What calibration adds up of a block's input x, over real rows: float64 [d_model] each."""

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    rows: int = 0

    @classmethod
    def empty(cls, d_model: int) -> "ChannelSums":
        """Return the sums over no rows."""
        return cls(np.zeros(d_model), np.zeros(d_model))

    def add(self, total: NDArray[np.float64], squares: NDArray[np.float64], rows: int) -> None:
        """Add a batch."""
        self.total += total
        self.squares += squares
        self.rows += rows


def balanced(sums: ChannelSums, up: NDArray[np.generic]) -> Screen:
    """Return the screen that shifts x by its mean and shares each channel's spread between x and the weights.

    With scale_d = sqrt(rms(x_d − mean_d) / rms(up_d)) the channels of x / scale and of up · scale have the same
    spread, so that no channel with outliers takes the 8-bit codes' range from the others.

    Parameters
    ----------
    sums
        Of the block's input.
    up
        [d_ff, d_model], the up projection.
    """
    rows = max(sums.rows, 1)
    mean = sums.total / rows
    spread = np.sqrt(np.maximum(sums.squares / rows - mean**2, 0.0))
    weight = np.sqrt(np.mean(np.square(up.astype(np.float64)), axis=0))
    if not (np.isfinite(spread).all() and np.isfinite(weight).all()):
        return Screen(np.zeros(len(mean), np.float32), np.ones(len(mean), np.float32))
    known = (spread > 0) & (weight > 0)
    scale = np.ones(len(mean))
    scale[known] = np.sqrt(spread[known] / weight[known])
    # A channel that never moved may move later: it is treated as the others are on average.
    if known.any():
        middle = np.exp(np.mean(np.log(scale[known])))
        scale[~known] = middle
        scale = np.clip(scale, middle / _WIDEST, middle * _WIDEST)
    return Screen(mean.astype(np.float32), scale.astype(np.float32))
