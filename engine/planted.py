"""MLP blocks with a chosen density, as easy to screen as trained ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["PREDICTED_FALL", "SCREENED_FALL", "PlantedBlock", "plant", "with_density"]

_Array = NDArray[np.float32]

SCREENED_FALL, PREDICTED_FALL = 85 / 768, 30 / 768
"""Directions over which the variance falls to 1 / e, as a share of d_model: with the first the certified screen's
candidates are about 1.5 times the active neurons at a density of 3 %, as trained weights with balanced channels give;
with the second those of a rank-64 predictor are 1 to 3 times, as was measured for trained weights."""

_SAMPLE = 2048  # rows that the biases' quantiles are taken over


@dataclass(frozen=True, slots=True)
class PlantedBlock:
    """A block's weights, neuron-major, and rows to run it on.

    Attributes
    ----------
    up, gate
        float32 [d_ff, d_model].
    up_bias
        float32 [d_ff]; it leaves the density.
    down
        float32 [d_ff, d_model].
    basis
        float32 [d_model, d_model]: the directions in which rows and neurons spread, the widest first.
    rows
        float32 [rows, d_model].
    pre
        float32 [rows, d_ff]: rows · up, without the bias.
    sample
        float32 [2048, d_ff]: the same of more rows, of which the density is planted.
    """

    up: _Array
    gate: _Array
    up_bias: _Array
    down: _Array
    basis: _Array
    rows: _Array
    pre: _Array
    sample: _Array

    @property
    def d_model(self) -> int:
        """The width of a row."""
        return int(self.up.shape[1])

    @property
    def d_ff(self) -> int:
        """The number of neurons."""
        return int(self.up.shape[0])

    def hidden(self) -> NDArray[np.float64]:
        """Return the neurons' values after the ReLU, [rows, d_ff]."""
        return np.maximum(self.rows.astype(np.float64) @ self.up.T.astype(np.float64) + self.up_bias, 0)

    def typical_first(self) -> "PlantedBlock":
        """Order the rows so that the first few have the planted density, too: one by itself may be far from it."""
        active = (self.pre + self.up_bias > 0).sum(axis=1)
        order = np.argsort(np.abs(active - active.mean()), kind="stable")
        return replace(self, rows=self.rows[order], pre=self.pre[order])


def plant(
    rng: np.random.Generator,
    d_model: int,
    d_ff: int,
    densities: Sequence[float],
    *,
    rows: int = 512,
    fall: float = SCREENED_FALL,
) -> list[PlantedBlock]:
    """Make a block for each density; they share all but the bias.

    Rows and neurons are Gaussian in a common rotated basis whose variances fall off exponentially, which is what makes
    trained blocks easy to screen. A neuron's bias is the quantile of its projections that leaves the density.

    Parameters
    ----------
    fall
        Directions over which the variance falls to 1 / e, as a share of d_model.
    """
    basis = np.linalg.qr(rng.standard_normal((d_model, d_model)))[0].T
    spread = np.exp(-0.5 * np.arange(d_model) / (fall * d_model))
    spread *= np.sqrt(d_model / np.sum(spread**2))

    def draw(count: int) -> _Array:
        drawn: _Array = ((rng.standard_normal((count, d_model)) * spread) @ basis).astype(np.float32)
        return drawn

    x, up = draw(max(rows, _SAMPLE)), draw(d_ff) / np.float32(np.sqrt(d_model))
    down = (rng.standard_normal((d_ff, d_model)) / np.sqrt(d_ff)).astype(np.float32)
    gate = draw(d_ff) / np.float32(np.sqrt(d_model))
    pre = x @ up.T
    none = np.zeros(d_ff, np.float32)
    block = PlantedBlock(up, gate, none, down, basis.astype(np.float32), x[:rows], pre[:rows], pre)
    return [with_density(block, density) for density in densities]


def with_density(block: PlantedBlock, density: float) -> PlantedBlock:
    """Return the block with another bias, so that a share of its neurons is active on average."""
    return replace(block, up_bias=-np.quantile(block.sample, 1 - density, axis=0).astype(np.float32))
