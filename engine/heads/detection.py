"""Object detection, as DETR's: class logits [queries, classes] and boxes [queries, 4] to objects with places."""

from collections.abc import Sequence

import numpy as np

from lazyneuron.engine.heads.answers import Detection, Detections
from lazyneuron.engine.heads.scores import Scores, best, class_name, sigmoid, softmax
from lazyneuron.engine.requests import Array

__all__ = ["THRESHOLD", "detect"]

THRESHOLD = 0.5
"""Objects are those of a greater probability."""
_MOST = 100  # of classes that exclude each other not, no more are looked at, as their papers' own evaluation has it


def detect(
    logits: Array, boxes: Array, labels: Sequence[str] | None, size: tuple[int, int] | None, top: int
) -> Detections:
    """Return at most `top` objects.

    Parameters
    ----------
    logits
        [queries, classes]: with one class more than there are labels the last is "no object", and a query has at most
        one class (softmax); otherwise each class is for itself (sigmoid).
    boxes
        [queries, 4]: centre x and y, width and height, in shares of the image.
    size
        The image's height and width in pixels; None: boxes stay shares.
    """
    exclusive = labels is None or logits.shape[-1] == len(labels) + 1
    found = _one_a_query(logits) if exclusive else _any(logits)
    scores = np.array([score for _, _, score in found])
    kept = [found[i] for i in best(scores, min(top, int((scores > THRESHOLD).sum())))]
    name, edges = class_name(labels), _edges(boxes, size)
    return Detections(
        tuple(Detection(name(label), label, score, _box(edges[query])) for query, label, score in kept), size
    )


def _one_a_query(logits: Array) -> list[tuple[int, int, float]]:
    scores = softmax(logits)[:, :-1]
    return [(query, int(row.argmax()), float(row.max())) for query, row in enumerate(scores)]


def _any(logits: Array) -> list[tuple[int, int, float]]:
    flat: Scores = sigmoid(logits).reshape(-1)
    return [(*divmod(place, logits.shape[-1]), float(flat[place])) for place in best(flat, _MOST)]


def _edges(boxes: Array, size: tuple[int, int] | None) -> Scores:
    """Return left, top, right and bottom [queries, 4]."""
    values = boxes.astype(np.float64)
    centre, half = values[:, :2], values[:, 2:] / 2
    height, width = size or (1, 1)
    edges: Scores = np.concatenate([centre - half, centre + half], axis=1) * [width, height, width, height]
    return edges


def _box(edges: Scores) -> tuple[float, float, float, float]:
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom
