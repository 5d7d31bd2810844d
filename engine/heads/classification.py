"""Text and image classification: logits [classes] to classes with probabilities."""

from collections.abc import Sequence

import numpy as np

from lazyneuron.engine.artifact import Problem
from lazyneuron.engine.heads.answers import Classification
from lazyneuron.engine.heads.scores import candidates, class_name, sigmoid, softmax
from lazyneuron.engine.requests import Array

__all__ = ["classify"]


def classify(logits: Array, labels: Sequence[str] | None, problem: Problem, top: int) -> Classification:
    """Return the `top` best classes of one example.

    Parameters
    ----------
    logits
        [classes]
    problem
        `single_label`: softmax; `multi_label`: a sigmoid each; `regression`: the logits themselves.
    """
    scores = {"single_label": softmax, "multi_label": sigmoid, "regression": _values}[problem](logits)
    return Classification(candidates(scores, top, class_name(labels)), problem)


def _values(logits: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return logits.astype(np.float64)
