"""A low-rank predictor: which of a block's neurons may fire, from the block's input, for the cost of a few percent."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Measures", "Predictor", "Spread"]

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean and the standard deviation of a block's input over calibration rows, float32 [d_model] each.

    Predictors are fitted on (x − mean) / deviation, so that no channel with outliers takes the others' digits.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, total: NDArray[np.float64], squares: NDArray[np.float64], rows: int) -> Self:
        """Return the spread of `rows` rows from their sum and sum of squares, [d_model] each."""
        mean = total / max(rows, 1)
        with np.errstate(invalid="ignore"):  # what is not finite stays so, for its reader to see
            deviation = np.sqrt(np.maximum(squares / max(rows, 1) - mean**2, 0.0))
        # A channel that does not move says nothing, and dividing by its rounding errors would let it speak.
        deviation = np.maximum(deviation, 1e-6 * max(float(deviation.max(initial=0.0)), 1e-30))
        return cls(mean.astype(np.float32), deviation.astype(np.float32))

    def standard(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows [n, d_model] with mean 0 and deviation 1."""
        return (x - self.mean) / self.deviation


@dataclass(frozen=True, slots=True)
class Measures:
    """What a predictor does on rows that it was not fitted on.

    Attributes
    ----------
    rows
        How many.
    recall
        The share of truly active neurons that are candidates, over all rows together.
    energy
        The share of the output's energy that they carry: of the sum of (value · ‖down row‖)².
    candidates
        The share of all neurons that are candidates.
    active
        The share that is truly active.
    """

    rows: int
    recall: float
    energy: float
    candidates: float
    active: float

    @property
    def ratio(self) -> float:
        """Candidates for each active neuron."""
        return self.candidates / self.active if self.active else float(self.candidates > 0)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Scores (x · first) · second + offset; neuron f may fire where its score exceeds `threshold`.

    Attributes
    ----------
    first
        float32 [d_model, rank].
    second
        float32 [rank, d_ff].
    offset
        float32 [d_ff].
    threshold
        One for all neurons, in the scores' unit (log-odds, up to a constant, where it was tuned).
    held_out
        What it does on rows that neither the weights nor the threshold were fitted to; None before it is measured.
    """

    first: Matrix
    second: Matrix
    offset: Matrix
    threshold: float = 0.0
    held_out: Measures | None = None

    @property
    def rank(self) -> int:
        """The width between the two products."""
        return int(self.first.shape[1])

    @property
    def operations(self) -> int:
        """Floating-point operations for a row; a multiply-add is two."""
        return int(2 * self.rank * (self.first.shape[0] + self.second.shape[1]))

    def scores(self, x: NDArray[np.float32]) -> Matrix:
        """Return the scores of rows [n, d_model]: float32 [n, d_ff]."""
        return np.add(x @ self.first @ self.second, self.offset, dtype=np.float32)

    def on_raw(self, spread: Spread) -> "Predictor":
        """Return the predictor of x that does what this one does of standardised x."""
        first = (self.first.astype(np.float64) / spread.deviation[:, None]).astype(np.float32)
        shift = spread.mean.astype(np.float64) @ first.astype(np.float64) @ self.second.astype(np.float64)
        return replace(self, first=first, offset=(self.offset - shift).astype(np.float32))
