"""Answers: what a model's outputs say, in words, probabilities and places. Plain values, with no model behind them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Problem
from lazyneuron.engine.origins import Span

__all__ = [
    "Answer",
    "Candidate",
    "Classification",
    "Detection",
    "Detections",
    "Embedding",
    "FilledMask",
    "FilledMasks",
    "NextToken",
    "TokenLabel",
    "TokenLabels",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the things that may be right.

    Attributes
    ----------
    label
        Its name: a class, or a word of the vocabulary.
    id
        Its place in the logits.
    score
        Its probability; of a regression the value itself.
    """

    label: str
    id: int
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The classes of a text or an image, the best first.

    Attributes
    ----------
    candidates
        As many as were asked for.
    problem
        `single_label`: one class is right, and all probabilities together are 1; `multi_label`: each may be right;
        `regression`: the scores are values and no probabilities.
    """

    kind: ClassVar[str] = "classification"
    candidates: tuple[Candidate, ...]
    problem: Problem = "single_label"

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, the best first."""
        return tuple(candidate.label for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class TokenLabel:
    """The classes of one token, the best first; `span` is None where the text is not known."""

    piece: str
    span: Span | None
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class TokenLabels:
    """The classes of each token of a text; those that the tokenizer added are left out where it is known which."""

    kind: ClassVar[str] = "token_labels"
    tokens: tuple[TokenLabel, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The best class of each token."""
        return tuple(token.candidates[0].label for token in self.tokens)


@dataclass(frozen=True, slots=True)
class FilledMask:
    """The words for one mask, the best first.

    Attributes
    ----------
    position
        The mask's place among the tokens, those that the tokenizer added included.
    span
        Its place in the text; None where the text is not known.
    """

    position: int
    span: Span | None
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class FilledMasks:
    """The words for each mask in a text."""

    kind: ClassVar[str] = "filled_masks"
    masks: tuple[FilledMask, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The best word for each mask."""
        return tuple(mask.candidates[0].label for mask in self.masks)


@dataclass(frozen=True, slots=True)
class NextToken:
    """What may follow a text, the most probable first."""

    kind: ClassVar[str] = "next_token"
    candidates: tuple[Candidate, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The tokens as text, the most probable first."""
        return tuple(candidate.label for candidate in self.candidates)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One vector for a text or an image.

    Attributes
    ----------
    vector
        float32 [d_model].
    pooling
        `model`: the model gives one vector itself; `mean`: the mean over the real rows (tokens, patches) of its output.
    """

    kind: ClassVar[str] = "embedding"
    vector: NDArray[np.float32]
    pooling: Literal["model", "mean"]

    @property
    def norm(self) -> float:
        """The vector's Euclidean length."""
        return float(np.linalg.norm(self.vector.astype(np.float64)))

    @property
    def labels(self) -> tuple[str, ...]:
        """None: an embedding has no labels."""
        return ()


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in an image.

    Attributes
    ----------
    label, id, score
        Its class, that class' place in the logits, and its probability.
    box
        Its left, top, right and bottom edge, in pixels of the image; in shares of its width and height where its size
        is not known.
    """

    label: str
    id: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects in an image that are more probable than not, the most probable first.

    Attributes
    ----------
    size
        The image's height and width in pixels; None where only a tensor was given.
    """

    kind: ClassVar[str] = "detections"
    objects: tuple[Detection, ...]
    size: tuple[int, int] | None

    @property
    def labels(self) -> tuple[str, ...]:
        """Each object's class."""
        return tuple(found.label for found in self.objects)


Answer = Classification | TokenLabels | FilledMasks | NextToken | Embedding | Detections
