"""Thresholds and centres: which of a block's neurons are left out because they are small, and what stands for them.

With values v, a threshold t and a centre c, the neurons with |v − c| > t are kept. The operator is given v − c, and c
comes back through the output's bias, c · down, so a neuron that is left out counts with its centre instead of with
zero. The best centre is the mean of a neuron's values over the rows that leave it out, which depend on the centre: the
mean over all rows is where the search for that fixed point begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Density
from lazyneuron.exporters.calibration import BlockCounts, density

__all__ = ["Cut", "choose_cut", "plain_cut"]

_STEPS = 3
"""How often the mean over what is left out is taken anew."""
_COMPARED = 1024
"""Rows on which the outputs' errors are measured."""
_WORTH = 0.98
"""A centre has to lower the error at least to this share, since it costs a pass over the values."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left out of a block.

    Attributes
    ----------
    threshold
        Neurons whose distance from the centre is not above it are left out.
    top_k
        The most neurons that a row keeps; 0: no cap.
    centre
        float32 [d_ff]; None: zero for each.
    density
        What is kept of the sampled rows.
    error
        The root of the mean squared error of the block's output, over that of the mean squared output.
    """

    threshold: float
    top_k: int
    centre: Matrix | None
    density: Density
    error: float


def choose_cut(rows: Matrix, down: Matrix, *, share: float | None, top_k: int = 0) -> tuple[Cut, Cut | None]:
    """Choose the threshold that keeps a share of the neurons, without a centre and with the best of some.

    Parameters
    ----------
    rows
        [rows, d_ff], the neurons' values.
    down
        [d_ff, d_out].
    share
        The share of all values to keep, by a threshold; None: no threshold.
    top_k
        The most neurons that a row keeps; 0: no cap.

    Returns
    -------
    The cut without a centre; and that with the best centre if it makes the output's error smaller by more than a
    fiftieth, else None.
    """
    plain = _made(rows, down, None, share, top_k)
    centred = [_made(rows, down, centre, share, top_k) for centre in _centres(rows, share, top_k)]
    best = min(centred, key=lambda cut: cut.error, default=plain)
    return plain, best if best.error < _WORTH * plain.error else None


def plain_cut(rows: Matrix, down: Matrix, threshold: float, top_k: int = 0) -> Cut:
    """Return what a threshold leaves out, without a centre."""
    return _measured(rows, down, None, threshold, top_k)


def _centres(rows: Matrix, share: float | None, top_k: int) -> Iterator[Matrix]:
    """Give the mean over all rows, and what the search for the fixed point ends with."""
    if not len(rows):
        return
    centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    yield centre
    for _ in range(_STEPS):
        size = np.abs(rows - centre)
        out = ~_kept(size, _threshold(size, share), top_k)
        count = out.sum(axis=0)
        total = np.einsum("rf,rf->f", rows, out, dtype=np.float64)
        centre = np.where(count > 0, total / np.maximum(count, 1), centre).astype(np.float32)
    yield centre


def _made(rows: Matrix, down: Matrix, centre: Matrix | None, share: float | None, top_k: int) -> Cut:
    size = np.abs(rows if centre is None else rows - centre)
    return _measured(rows, down, centre, _threshold(size, share), top_k, size)


def _measured(
    rows: Matrix, down: Matrix, centre: Matrix | None, threshold: float, top_k: int, size: Matrix | None = None
) -> Cut:
    size = np.abs(rows) if size is None else size
    above = size > threshold
    counts = BlockCounts.empty(1, rows.shape[1])
    counts.add(above.sum(axis=1), above.sum(axis=0))
    few = slice(None, None, max(-(-len(rows) // _COMPARED), 1))
    kept = _kept(size[few], threshold, top_k)
    values = rows[few] if centre is None else rows[few] - centre
    lost = np.where(kept, np.float32(0), values) @ down
    whole = rows[few] @ down
    squares = float(np.square(whole, dtype=np.float64).sum())
    error = float(np.sqrt(np.square(lost, dtype=np.float64).sum() / squares)) if squares else 0.0
    return Cut(threshold, top_k, centre, density(counts, top_k), error)


def _threshold(size: Matrix, share: float | None) -> float:
    """Return the size that at most a share of all exceed, and just that share where no two are the same."""
    if share is None or not size.size:
        return 0.0
    place = size.size - 1 - round(share * size.size)
    return float(np.partition(size, place, axis=None)[place]) if place >= 0 else 0.0


def _kept(size: Matrix, threshold: float, top_k: int) -> NDArray[np.bool_]:
    """Return which are above the threshold and, where that is too many, among the k largest of their row."""
    kept: NDArray[np.bool_] = size > threshold
    if 0 < top_k < size.shape[1]:
        least = np.partition(size, size.shape[1] - top_k, axis=1)[:, size.shape[1] - top_k, None]
        kept &= size >= least
    return kept
