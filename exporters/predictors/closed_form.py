"""The first predictor, in closed form: reduced-rank regression of the pre-activations on the block's input.

The pre-activations are a linear map of the input, so the best map of rank r (least squares over the calibration rows)
is the map itself, projected on the leading r principal directions of the pre-activations (Izenman 1975; with no noise,
the regression's own coefficients are known). A neuron's score is its predicted pre-activation over the deviation of
what the prediction leaves out, so that one threshold means about the same risk for every neuron.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lazyneuron.exporters.predictors.predictor import Predictor

__all__ = ["Moments", "ReducedRank"]

_RIDGE = 1e-6
"""The least variance of a direction of the input, as a share of the largest: it is divided by its root."""
_LEAST_RESIDUAL = 0.05
"""The least deviation that a prediction is said to leave out, as a share of the neuron's own: scores stay so
small that tuning can move them."""
_LOGISTIC = 1.702
"""The logistic function of 1.702 z is the normal distribution function of z to 0.01: scores become log-odds."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """The mean [d_model] and the covariance [d_model, d_model] of a block's standardised input."""

    mean: Matrix
    covariance: Matrix

    @classmethod
    def of(cls, parts: Iterator[NDArray[np.float32]], d_model: int) -> Self:
        """Add up rows [n, d_model], part by part."""
        total, squares, rows = np.zeros(d_model), np.zeros((d_model, d_model)), 0
        for part in parts:
            total += part.sum(axis=0, dtype=np.float64)
            squares += part.T @ part  # in float32: its columns have deviation 1, and a part is short
            rows += len(part)
        mean = total / max(rows, 1)
        return cls(mean, squares / max(rows, 1) - np.outer(mean, mean))


class ReducedRank:
    """Closed-form predictors of every rank, of one block.

    Parameters
    ----------
    moments
        Of the standardised input.
    up
        [d_model, d_ff], the up projection of the standardised input.
    bias
        [d_ff], what it adds.
    """

    def __init__(self, moments: Moments, up: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        values, vectors = np.linalg.eigh(moments.covariance)
        values = np.maximum(values, max(float(values[-1]), 1e-30) * _RIDGE)
        half = (vectors * np.sqrt(values)) @ vectors.T
        spread = half @ up  # [d_model, d_ff]: its columns' squared norms are the pre-activations' variances
        _, directions = np.linalg.eigh(spread @ spread.T)
        directions = directions[:, ::-1]
        # A vector's sign is free, and differs between machines.
        directions = directions * np.where(directions[np.abs(directions).argmax(0), range(len(values))] < 0, -1, 1)
        self.first = ((vectors / np.sqrt(values)) @ vectors.T @ directions).astype(np.float32)
        """[d_model, d_model]: the first r columns are the predictor's of rank r."""
        self.second = directions.T @ spread
        """[d_model, d_ff], likewise its rows."""
        self._mean_input = moments.mean
        self._mean = moments.mean @ up + bias
        self._variance = np.square(spread).sum(axis=0)
        self._explained = np.cumsum(np.square(self.second), axis=0)

    def scale(self, rank: int) -> NDArray[np.float32]:
        """Return what a predicted pre-activation is multiplied by to be a score: float32 [d_ff]."""
        left_out = np.sqrt(np.maximum(self._variance - self._explained[rank - 1], 0.0))
        floor = _LEAST_RESIDUAL * np.sqrt(self._variance) + 1e-30
        scale: NDArray[np.float32] = (_LOGISTIC / np.maximum(left_out, floor)).astype(np.float32)
        # A neuron that never moves has no risk to divide by: its pre-activation alone says whether it fires.
        return np.where(self._variance > 0, scale, np.float32(1.0))

    def predictor(self, rank: int) -> Predictor:
        """Return the predictor of a rank, from 1 to d_model, of the standardised input."""
        scale = self.scale(rank)
        first, second = self.first[:, :rank], self.second[:rank]
        centre = (self._mean_input @ first) @ second
        offset = ((self._mean - centre) * scale).astype(np.float32)
        return Predictor(np.ascontiguousarray(first), (second * scale).astype(np.float32), offset)
