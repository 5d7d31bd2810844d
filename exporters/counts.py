"""What calibration adds up of a block's active neurons besides their histogram, and the shares that follow from it.

All counts are whole numbers and exact, in memory that does not grow with the data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST_POSITIONS", "HOTTEST", "SHARED", "Examples", "Positions", "Unions", "hottest_shares"]

Counts = NDArray[np.int64]

FIRST_POSITIONS = (0, 1, 4, 16, 64, 256, 1024)
"""The first position of each group of positions: the first token stands alone, since it is often unlike the others."""
SHARED = (8, 32)
"""How many rows a mask is imagined to be shared by."""
HOTTEST = (1, 10, 50)
"""The percentages of neurons, the hottest first, whose share of all activations is told."""
_Z = 1.959964
"""Of the normal distribution: 95 % of it lie within so many deviations of its mean."""


@dataclass(slots=True)
class Examples:
    """Sums over examples, for how sure their mean density is.

    Rows of one example resemble each other, so that examples are what was drawn, and not rows.

    Attributes
    ----------
    active, rows
        Active neurons and rows of all examples.
    active_squared, rows_squared, product
        Sums over examples of the squares and of the product of their active neurons and rows.
    """

    count: int = 0
    active: int = 0
    rows: int = 0
    active_squared: int = 0
    rows_squared: int = 0
    product: int = 0

    def add(self, active: Counts, rows: Counts) -> None:
        """Add examples: how many neurons were active in all of an example's rows [n], and its rows [n]."""
        for a, n in zip(active.tolist(), rows.tolist(), strict=True):  # Python's whole numbers, whose squares fit
            if n:
                self.count += 1
                self.active += a
                self.rows += n
                self.active_squared += a * a
                self.rows_squared += n * n
                self.product += a * n

    def merge(self, other: "Examples") -> None:
        """Add other examples."""
        for name in ("count", "active", "rows", "active_squared", "rows_squared", "product"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def interval(self, d_ff: int) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean density: of a ratio of two sums over examples.

        Its deviation is sqrt(m / (m − 1) · Σ (aᵢ − r·nᵢ)²) / Σ nᵢ, r = Σ aᵢ / Σ nᵢ (Cochran, Sampling Techniques,
        1977, equation 6.13), times Student's quantile for m − 1 degrees of freedom.

        Returns
        -------
        Two shares of `d_ff`; None for fewer than two examples.
        """
        if self.count < 2:
            return None
        # Over the common denominator rows², so that what is subtracted from each other is exact.
        a, n = self.active, self.rows
        squares = self.active_squared * n * n - 2 * a * n * self.product + a * a * self.rows_squared
        deviation = math.sqrt(self.count / (self.count - 1) * (squares / n**2)) / n
        half = _student(self.count - 1) * deviation / d_ff
        mean = a / (n * d_ff)
        return max(mean - half, 0.0), min(mean + half, 1.0)


def _student(freedom: int) -> float:
    """Return Student's 97.5 % quantile (exact for 1 and 2; else Abramowitz and Stegun 26.7.5, within 1 %)."""
    if freedom == 1:
        return 12.7062
    if freedom == 2:
        return 4.3027
    z, v = _Z, freedom
    terms = (
        z,
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
    )
    return sum(terms)


def _zeros(count: int) -> Counts:
    return np.zeros(count, np.int64)


@dataclass(slots=True)
class Positions:
    """Rows and their active neurons by where a row stands in its example, in the groups of `FIRST_POSITIONS`."""

    rows: Counts = field(default_factory=lambda: _zeros(len(FIRST_POSITIONS)))
    active: Counts = field(default_factory=lambda: _zeros(len(FIRST_POSITIONS)))

    def add(self, active: Counts, position: Counts) -> None:
        """Add rows: how many neurons were active [n], and the rows' positions [n]."""
        group = np.searchsorted(FIRST_POSITIONS, position, side="right") - 1
        self.rows += np.bincount(group, minlength=len(FIRST_POSITIONS))
        # Floats hold these sums exactly: a batch has fewer than 2⁵³ neurons.
        self.active += np.bincount(group, weights=active, minlength=len(FIRST_POSITIONS)).astype(np.int64)

    def merge(self, other: "Positions") -> None:
        """Add other rows."""
        self.rows += other.rows
        self.active += other.active


@dataclass(slots=True)
class Unions:
    """Neurons that were active in at least one of `SHARED` rows: the sum over groups of rows, and the groups."""

    groups: Counts = field(default_factory=lambda: _zeros(len(SHARED)))
    active: Counts = field(default_factory=lambda: _zeros(len(SHARED)))

    def add(self, unions: Sequence[NDArray[np.integer]]) -> None:
        """Add a batch: for each of `SHARED` the active neurons of its groups."""
        self.groups += [len(union) for union in unions]
        self.active += [int(union.sum()) for union in unions]

    def merge(self, other: "Unions") -> None:
        """Add other groups."""
        self.groups += other.groups
        self.active += other.active

    def shares(self, d_ff: int) -> dict[int, float | None]:
        """Return the mean share by the number of rows; None where no batch had so many."""
        means = (a / (g * d_ff) if g else None for a, g in zip(self.active.tolist(), self.groups.tolist(), strict=True))
        return dict(zip(SHARED, means, strict=True))


def hottest_shares(fired: Counts) -> dict[int, float]:
    """Return the share of all activations that the hottest neurons made, by their percentage in `HOTTEST`.

    Parameters
    ----------
    fired
        [d_ff]: for how many rows each neuron was active.
    """
    ordered = np.sort(fired)[::-1].cumsum()
    total = max(int(ordered[-1]), 1)
    return {percent: int(ordered[math.ceil(percent * len(fired) / 100) - 1]) / total for percent in HOTTEST}
