"""Logits to probabilities, and the best of them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.heads.answers import Candidate
from lazyneuron.engine.requests import Array

__all__ = ["Scores", "best", "candidates", "class_name", "sigmoid", "softmax"]

Scores = NDArray[np.float64]


def softmax(logits: Array) -> Scores:
    """Return exp(x) / Σ exp(x) over the last axis, computed in float64 from differences to the largest."""
    values = logits.astype(np.float64)
    values = np.exp(values - values.max(-1, keepdims=True))
    scores: Scores = values / values.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: Array) -> Scores:
    """Return 1 / (1 + exp(−x)) in float64; by way of tanh, which does not overflow."""
    scores: Scores = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return scores


def best(scores: Scores, count: int) -> list[int]:
    """Return the places of the `count` largest of a row, the largest first; of equals the first."""
    scores = np.nan_to_num(scores, nan=-np.inf)  # what is no number is no better than anything
    count = min(count, scores.size)
    if count == 0:
        return []
    least = np.partition(scores, scores.size - count)[scores.size - count]  # a vocabulary is not sorted for five words
    places = np.flatnonzero(scores >= least)
    order = np.argsort(-scores[places], kind="stable")[:count]
    return [int(place) for place in places[order]]


def candidates(scores: Scores, count: int, name: Callable[[int], str]) -> tuple[Candidate, ...]:
    """Return the `count` best of a row of scores, named."""
    return tuple(Candidate(name(place), place, float(scores[place])) for place in best(scores, count))


def class_name(labels: Sequence[str] | None) -> Callable[[int], str]:
    """Return what names a class by its place: its label, or its number where there are no labels."""
    names = labels or ()
    return lambda place: names[place] if place < len(names) else str(place)
