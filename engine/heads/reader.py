"""Which head reads a model's outputs, and what it is given: one example's real rows, its tokens, its image's size."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import BATCH_AXIS, InputSpec, Manifest, OutputSpec
from lazyneuron.engine.heads.answers import Answer
from lazyneuron.engine.heads.classification import classify
from lazyneuron.engine.heads.detection import detect
from lazyneuron.engine.heads.embedding import embed
from lazyneuron.engine.heads.fill_mask import fill_masks
from lazyneuron.engine.heads.next_token import next_token
from lazyneuron.engine.heads.token_classification import label_tokens
from lazyneuron.engine.origins import Picture, Text, Token
from lazyneuron.engine.requests import Array, Request
from lazyneuron.engine.text import TextEncoder

__all__ = ["TOP", "Reader"]

TOP = 5
"""How many candidates an answer has where nobody says."""

_A_ROW, _ROWS = 2, 3
"""The rank of an output with one row an example, and of one with a row for each token, patch or query."""
_BOXES = "pred_boxes"

_Outputs = Mapping[str, Array]
_Head = Callable[[Request, _Outputs, int, int], Answer]
"""Reads one example of a request: its outputs with their batch axis, its place on it, and how many candidates."""


class Reader:
    """Reads a model's outputs in words.

    Parameters
    ----------
    manifest
        Its task tells the head.
    encoder
        The tokenizer, for the words of a vocabulary; None: numbers stand for them.
    """

    def __init__(self, manifest: Manifest, encoder: TextEncoder | None) -> None:
        self._manifest = manifest
        self._word = str if encoder is None else encoder.word
        self._piece = str if encoder is None else encoder.piece
        self._mask_id = None if encoder is None else encoder.mask_id
        self._head = self._head_for(manifest.task)

    def read(self, request: Request, outputs: Mapping[str, Array], top: int = TOP) -> tuple[Answer, ...]:
        """Return an answer for each example of a request; none where the task has no head.

        Parameters
        ----------
        request
            What was asked.
        outputs
            The model's outputs for it alone.
        top
            The most candidates of an answer, at least 1.
        """
        if self._head is None:
            return ()
        return tuple(self._head(request, outputs, example, top) for example in range(request.batch))

    def _head_for(self, task: str) -> _Head | None:
        """Return the head that reads a task's outputs, if they have the shape that it reads."""
        shape, names = self._spec.shape, {spec.name for spec in self._manifest.outputs}
        if shape[:1] != (BATCH_AXIS,):
            return None
        a_row, rows = len(shape) == _A_ROW, len(shape) == _ROWS
        tokens = rows and any(self._is_tokens(spec) for spec in self._manifest.inputs)
        heads: dict[str, tuple[_Head, bool]] = {
            "classification": (self._classes, a_row),
            "text-classification": (self._classes, a_row),
            "image-classification": (self._classes, a_row),
            "token-classification": (self._token_classes, tokens),
            "fill-mask": (self._masks, tokens),
            "text-generation": (self._next_token, tokens),
            "seq2seq": (self._next_token, tokens),
            "object-detection": (self._objects, rows and _BOXES in names),
            "feature-extraction": (self._embedding, len(shape) >= _A_ROW),
            "image-feature-extraction": (self._embedding, len(shape) >= _A_ROW),
            "sentence-embedding": (self._embedding, a_row),
        }
        head, fits = heads.get(task, (None, False))
        return head if fits else None

    @property
    def _spec(self) -> OutputSpec:
        """The output that is read: `logits` where there is one of that name, or the first."""
        outputs = self._manifest.outputs
        return next((spec for spec in outputs if spec.name == "logits"), outputs[0])

    def _classes(self, request: Request, outputs: _Outputs, example: int, top: int) -> Answer:  # noqa: ARG002
        problem = self._manifest.problem or "single_label"
        return classify(outputs[self._spec.name][example], self._manifest.labels, problem, top)

    def _token_classes(self, request: Request, outputs: _Outputs, example: int, top: int) -> Answer:
        return label_tokens(
            self._real(request, outputs, example), self._tokens(request, example), self._manifest.labels, top
        )

    def _masks(self, request: Request, outputs: _Outputs, example: int, top: int) -> Answer:
        logits, tokens = self._real(request, outputs, example), self._tokens(request, example)
        return fill_masks(logits, tokens, self._mask_id, self._word, top)

    def _next_token(self, request: Request, outputs: _Outputs, example: int, top: int) -> Answer:
        return next_token(self._real(request, outputs, example), self._word, top)

    def _embedding(self, request: Request, outputs: _Outputs, example: int, top: int) -> Answer:  # noqa: ARG002
        return embed(self._real(request, outputs, example))

    def _objects(self, request: Request, outputs: _Outputs, example: int, top: int) -> Answer:
        size = (request.origin.height, request.origin.width) if isinstance(request.origin, Picture) else None
        logits, boxes = outputs[self._spec.name][example], outputs[_BOXES][example]
        return detect(logits, boxes, self._manifest.labels, size, top)

    def _real(self, request: Request, outputs: _Outputs, example: int) -> Array:
        """Return the rows of one example's output that are no padding."""
        rows: Array = outputs[self._spec.name][example]
        real = self._mask(request, example)
        return rows if real is None else rows[real]

    def _mask(self, request: Request, example: int) -> NDArray[np.bool_] | None:
        """Return which rows of the output are real; None where no mask tells."""
        spec = self._manifest.mask_for(self._spec.shape[:_A_ROW])
        return None if spec is None else np.asarray(request.inputs[spec.name][example] != 0)

    def _tokens(self, request: Request, example: int) -> tuple[Token, ...]:
        """Return the tokens of the output's real rows."""
        if isinstance(request.origin, Text):
            return request.origin.tokens
        ids = next(spec for spec in self._manifest.inputs if self._is_tokens(spec))
        values, real = request.inputs[ids.name][example], self._mask(request, example)
        found = (values if real is None else values[real]).tolist()
        return tuple(Token(i, self._piece(i)) for i in found)

    def _is_tokens(self, spec: InputSpec) -> bool:
        return spec.role == "tokens" and spec.shape == self._spec.shape[:_A_ROW]
