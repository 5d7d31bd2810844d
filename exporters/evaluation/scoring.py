"""What one example adds to the sums: both graphs' rows of an output, judged by targets or by each other."""

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.heads.scores import sigmoid
from lazyneuron.exporters.evaluation.statistics import BINS, DENSE, SPARSE, WIDTH, Column
from lazyneuron.exporters.examples import Array

__all__ = ["score_classes", "score_errors", "score_labels_each", "score_values", "score_vectors"]

_CHUNK = 256
"""Rows whose logits are looked at together: a vocabulary in float64 is wide."""
_MOST_SURPRISE = 1e4  # of a probability that is 0 or no number, so that sums stay numbers
_MOST_ERROR = 1e100  # likewise of an output that is infinite or no number
_Floats = NDArray[np.float64]


def score_errors(dense: Array, sparse: Array, *, argmax: bool) -> _Floats:
    """Compare two versions of the same rows.

    Parameters
    ----------
    dense, sparse
        [..., entries]
    argmax
        Whether the largest entry of a row has a meaning, as in logits.

    Returns
    -------
    Sums [2, columns].
    """
    sums = np.zeros((2, WIDTH))
    a, b = dense.astype(np.float64), sparse.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.nan_to_num(b - a, nan=_MOST_ERROR, posinf=_MOST_ERROR, neginf=_MOST_ERROR))
    sums[SPARSE, Column.ERROR] = np.square(error).sum()
    sums[:, Column.ENERGY] = np.square(a[np.isfinite(a)]).sum()
    rows = 1 if a.ndim == 0 else a.size // max(a.shape[-1], 1)
    sums[:, Column.ROWS] = rows
    if argmax and a.size:
        sums[DENSE, Column.AGREE] = rows
        sums[SPARSE, Column.AGREE] = np.count_nonzero(a.argmax(-1) == b.argmax(-1))
    return sums


def score_classes(dense: Array, sparse: Array, targets: NDArray[np.int64]) -> _Floats:
    """Judge logits of which one is right in each row.

    Parameters
    ----------
    dense, sparse
        Logits [rows, classes].
    targets
        The right class of each row.

    Returns
    -------
    Sums [2, columns].
    """
    sums = np.zeros((2, WIDTH))
    for first in range(0, len(targets), _CHUNK):
        part = slice(first, first + _CHUNK)
        sums += score_errors(dense[part], sparse[part], argmax=True)
        for graph, logits in ((DENSE, dense), (SPARSE, sparse)):
            _add_classes(sums[graph], logits[part].astype(np.float64), targets[part])
    return sums


def _add_classes(sums: _Floats, logits: _Floats, targets: NDArray[np.int64]) -> None:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shifted = logits - logits.max(-1, keepdims=True)
        total = np.log(np.exp(shifted).sum(-1))
        surprise = total - np.take_along_axis(shifted, targets[:, None], -1)[:, 0]
        confidence = np.nan_to_num(np.exp(shifted.max(-1) - total))
    right = logits.argmax(-1) == targets
    sums[Column.CORRECT] += np.count_nonzero(right)
    sums[Column.SURPRISE] += np.nan_to_num(surprise, nan=_MOST_SURPRISE).clip(0, _MOST_SURPRISE).sum()
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    np.add.at(sums, Column.BIN + bins, confidence - right)


def score_labels_each(dense: Array, sparse: Array, targets: NDArray[np.bool_]) -> _Floats:
    """Judge logits [classes] of which each may be right, at a probability of one half; a class is a row."""
    sums = score_errors(dense[None], sparse[None], argmax=False)
    for graph, logits in ((DENSE, dense), (SPARSE, sparse)):
        sums[graph, Column.CORRECT] = np.count_nonzero((sigmoid(logits) > 0.5) == targets)
    sums[:, Column.ROWS] = targets.size
    return sums


def score_values(dense: Array, sparse: Array, targets: _Floats) -> _Floats:
    """Judge the values [outputs] of a regression; each is a row."""
    sums = score_errors(dense[None], sparse[None], argmax=False)
    for graph, values in ((DENSE, dense), (SPARSE, sparse)):
        distance = np.nan_to_num(values.astype(np.float64) - targets, nan=_MOST_ERROR).clip(-_MOST_ERROR, _MOST_ERROR)
        sums[graph, Column.SQUARED] = np.square(distance).sum()
    sums[:, Column.ROWS] = targets.size
    return sums


def score_vectors(dense: Array, sparse: Array) -> _Floats:
    """Compare two embeddings [d_model] by their cosine; one without a length is like nothing but itself."""
    sums = score_errors(dense, sparse, argmax=False)
    a, b = np.nan_to_num(dense.astype(np.float64)), np.nan_to_num(sparse.astype(np.float64))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float(a @ b / norms) if norms > 0 else float(np.array_equal(dense, sparse))
    sums[DENSE, Column.COSINE] = 1.0
    sums[SPARSE, Column.COSINE] = min(max(cosine, -1.0), 1.0)
    return sums
