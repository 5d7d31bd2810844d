"""What an example is judged by, one class a kind of task; `reading_for` picks."""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import InputSpec, OutputSpec
from lazyneuron.engine.errors import CalibrationError
from lazyneuron.engine.heads.embedding import embed
from lazyneuron.exporters.evaluation.labelled import Row
from lazyneuron.exporters.evaluation.scoring import (
    score_classes,
    score_errors,
    score_labels_each,
    score_values,
    score_vectors,
)
from lazyneuron.exporters.examples import Array
from lazyneuron.exporters.sources import DenseModel

__all__ = ["IGNORED", "Classes", "Reading", "TokenClasses", "read_output", "reading_for", "special_tokens"]

IGNORED = -100
"""The label of a token that is not judged, as PyTorch has it."""
_MASKED_SHARE = 0.15  # of a text's tokens, as BERT's training has it
_CLASSIFIERS = {"classification", "text-classification", "image-classification", "audio-classification"}
_EMBEDDERS = {"feature-extraction", "image-feature-extraction", "sentence-embedding"}
_LANGUAGE = {"text-generation", "seq2seq"}
_Floats = NDArray[np.float64]


class Reading(Protocol):
    """Judges an example by one output."""

    @property
    def deciding(self) -> str:
        """The metric that the verdict goes by."""

    @property
    def others(self) -> tuple[str, ...]:
        """More that are told."""

    def prepare(self, row: Row, place: int) -> tuple[Row, Any]:
        """Return the row to run and what its output is judged by.

        Parameters
        ----------
        row
            As it was read.
        place
            Its place in the data; what is drawn for it depends on nothing else.
        """

    def score(self, dense: Array, sparse: Array, target: Any) -> _Floats:  # noqa: ANN401 (what `prepare` gave)
        """Return one example's sums [2, columns], from both graphs' output without the batch axis."""


@dataclass(frozen=True, slots=True)
class Classes:
    """One label of several for each example."""

    classes: int
    labels: tuple[str, ...] | None
    deciding: str = "accuracy"
    others: tuple[str, ...] = ("expected calibration error", "agreement", "relative error")

    def prepare(self, row: Row, place: int) -> tuple[Row, NDArray[np.int64]]:  # noqa: ARG002 (Reading's signature)
        """Return the label as a number."""
        return row, np.array([_class(row.label, self.classes, self.labels, row.where)])

    def score(self, dense: Array, sparse: Array, target: NDArray[np.int64]) -> _Floats:
        """Judge logits [classes]."""
        return score_classes(dense[None], sparse[None], target)


@dataclass(frozen=True, slots=True)
class ManyLabels:
    """Any number of labels for each example: a list of numbers or names."""

    classes: int
    labels: tuple[str, ...] | None
    deciding: str = "accuracy"
    others: tuple[str, ...] = ("relative error",)

    def prepare(self, row: Row, place: int) -> tuple[Row, NDArray[np.bool_]]:  # noqa: ARG002
        """Return which classes are right."""
        if not isinstance(row.label, list):
            raise CalibrationError(f"{row.where}: label is {row.label!r:.60}; expected a list of classes")
        right = np.zeros(self.classes, bool)
        right[[_class(label, self.classes, self.labels, row.where) for label in row.label]] = True
        return row, right

    def score(self, dense: Array, sparse: Array, target: NDArray[np.bool_]) -> _Floats:
        """Judge logits [classes], each for itself."""
        return score_labels_each(dense, sparse, target)


@dataclass(frozen=True, slots=True)
class Values:
    """A regression: one number an output, or a list of them."""

    outputs: int
    deciding: str = "mean squared error"
    others: tuple[str, ...] = ("relative error",)

    def prepare(self, row: Row, place: int) -> tuple[Row, _Floats]:  # noqa: ARG002
        """Return the numbers."""
        given = row.label if isinstance(row.label, list) else [row.label]
        numbers = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v)]
        if len(given) != self.outputs or len(numbers) != len(given):
            raise CalibrationError(f"{row.where}: label is {row.label!r:.60}; expected {self.outputs} finite numbers")
        return row, np.asarray(numbers, np.float64)

    def score(self, dense: Array, sparse: Array, target: _Floats) -> _Floats:
        """Judge values [outputs]."""
        return score_values(dense, sparse, target)


@dataclass(frozen=True, slots=True)
class TokenClasses:
    """A label for each token: a list, in which -100 stands for a token that is not judged."""

    classes: int
    labels: tuple[str, ...] | None
    tokens: str
    """The input whose length tells how many tokens there are."""
    deciding: str = "token accuracy"
    others: tuple[str, ...] = ("expected calibration error", "agreement", "relative error")

    def prepare(self, row: Row, place: int) -> tuple[Row, NDArray[np.int64]]:  # noqa: ARG002
        """Return the labels as numbers."""
        count = len(row.example[self.tokens])
        if not isinstance(row.label, list) or len(row.label) != count:
            got = f"{len(row.label)} labels" if isinstance(row.label, list) else f"label {row.label!r:.60}"
            raise CalibrationError(
                f"{row.where}: got {got}; expected a list of {count}, one a token, those that the tokenizer added "
                f"included ({IGNORED}: not judged)"
            )
        known = [
            IGNORED if label == IGNORED else _class(label, self.classes, self.labels, row.where) for label in row.label
        ]
        return row, np.asarray(known, np.int64)

    def score(self, dense: Array, sparse: Array, target: NDArray[np.int64]) -> _Floats:
        """Judge logits [tokens, classes]."""
        judged = target != IGNORED
        return score_classes(dense[judged], sparse[judged], target[judged])


@dataclass(frozen=True, slots=True)
class NextTokens:
    """A causal language model: each token is what the logits before it should have said."""

    tokens: str
    mask: str | None
    deciding: str = "perplexity"
    others: tuple[str, ...] = ("token accuracy", "agreement", "relative error")

    def prepare(self, row: Row, place: int) -> tuple[Row, tuple[NDArray[np.bool_], NDArray[np.int64]]]:  # noqa: ARG002
        """Return which positions are judged, and the tokens after them."""
        ids = row.example[self.tokens].astype(np.int64)
        real = np.ones(len(ids), bool) if self.mask is None else row.example[self.mask] != 0
        judged = np.zeros(len(ids), bool)
        judged[:-1] = real[:-1] & real[1:]
        return row, (judged, np.roll(ids, -1)[judged])

    def score(self, dense: Array, sparse: Array, target: tuple[NDArray[np.bool_], NDArray[np.int64]]) -> _Floats:
        """Judge logits [tokens, vocabulary]."""
        judged, following = target
        return score_classes(dense[judged], sparse[judged], following)


@dataclass(frozen=True, slots=True)
class MaskedTokens:
    """A masked language model: 15 % of a text's tokens are masked, drawn anew for each text, and to be told."""

    tokens: str
    mask: str | None
    mask_token: int
    special: frozenset[int]
    deciding: str = "perplexity"
    others: tuple[str, ...] = ("token accuracy", "agreement", "relative error")

    def prepare(self, row: Row, place: int) -> tuple[Row, tuple[NDArray[np.intp], NDArray[np.int64]]]:
        """Mask tokens; return their places and what they were."""
        ids = row.example[self.tokens]
        real = np.ones(len(ids), bool) if self.mask is None else row.example[self.mask] != 0
        own = np.flatnonzero(real & ~np.isin(ids, list(self.special)))
        count = min(len(own), max(1, round(_MASKED_SHARE * len(own))))
        places = np.sort(np.random.default_rng((1, place)).permutation(own)[:count])
        masked = ids.copy()
        masked[places] = self.mask_token
        return replace(row, example=row.example | {self.tokens: masked}), (places, ids[places].astype(np.int64))

    def score(self, dense: Array, sparse: Array, target: tuple[NDArray[np.intp], NDArray[np.int64]]) -> _Floats:
        """Judge logits [tokens, vocabulary]."""
        places, words = target
        return score_classes(dense[places], sparse[places], words)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector an example, against the dense graph's; the nearest neighbours are compared at the end."""

    deciding: str = "same nearest neighbour"
    others: tuple[str, ...] = ("cosine", "relative error")

    def prepare(self, row: Row, place: int) -> tuple[Row, None]:  # noqa: ARG002
        """Return the row."""
        return row, None

    def score(self, dense: Array, sparse: Array, target: None) -> _Floats:  # noqa: ARG002
        """Compare [d_model], or the means over [rows, …, d_model]."""
        return score_vectors(embed(dense).vector, embed(sparse).vector)


@dataclass(frozen=True, slots=True)
class Likeness:
    """No targets: the dense graph's own output is what the sparse one's is compared with."""

    argmax: bool
    deciding: str = field(init=False)
    others: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = ("agreement", "relative error") if self.argmax else ("relative error",)
        object.__setattr__(self, "deciding", names[0])
        object.__setattr__(self, "others", names[1:])

    def prepare(self, row: Row, place: int) -> tuple[Row, None]:  # noqa: ARG002
        """Return the row."""
        return row, None

    def score(self, dense: Array, sparse: Array, target: None) -> _Floats:  # noqa: ARG002
        """Compare the rows."""
        return score_errors(dense, sparse, argmax=self.argmax)


def read_output(inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...]) -> OutputSpec:
    """Return the output that is judged: `logits` where there is one of that name, or the first, of those with a batch.

    Raises
    ------
    CalibrationError
        If no output begins with the inputs' batch axis.
    """
    own = [spec for spec in outputs if spec.shape[:1] == inputs[0].shape[:1]]
    if not own:
        shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
        raise CalibrationError(f"the model's outputs ({shapes}) have no row for each example; expected one that has")
    return next((spec for spec in own if spec.name == "logits"), own[0])


def reading_for(dense: DenseModel, *, labelled: bool) -> tuple[Reading, list[str]]:
    """Return what examples are judged by, and what a person should know of it, in sentences."""
    spec, task = read_output(dense.inputs, dense.outputs), dense.task
    size = spec.shape[-1] if spec.shape else 0
    flat = len(spec.shape) == 2 and isinstance(size, int)
    # Who exports a function or an ONNX file need not say what it is for; labels do.
    unsaid = task == "feature-extraction" and dense.source.kind != "hugging_face"
    if labelled and flat and isinstance(size, int) and (task in _CLASSIFIERS or unsaid):
        kinds: dict[str, Reading] = {"multi_label": ManyLabels(size, dense.labels), "regression": Values(size)}
        return kinds.get(dense.problem or "", Classes(size, dense.labels)), []
    ids = _tokens(dense.inputs, spec)
    if labelled and task == "token-classification" and ids is not None and isinstance(size, int):
        return TokenClasses(size, dense.labels, ids.name), []
    notes = [f"The labels are not looked at: a model for {task} is judged without."] if labelled else []
    if ids is not None and task in _LANGUAGE:
        return NextTokens(ids.name, _mask(dense.inputs, ids)), notes
    if ids is not None and task == "fill-mask":
        masked = _masked(dense, ids)
        if masked is not None:
            return masked, notes
        notes.append("The model's mask token is not known, so only the agreement of its outputs is looked at.")
    if task in _EMBEDDERS and len(spec.shape) >= 2 and spec.dtype.startswith("float"):
        return Embeddings(), notes
    argmax = len(spec.shape) > 1 and spec.dtype.startswith("float") and dense.problem in {None, "single_label"}
    unlabelled = task in _CLASSIFIERS | {"token-classification"} and not labelled
    if unlabelled:
        notes.append("The data has no labels: it is told how often both graphs agree, not how often they are right.")
    return Likeness(argmax and task != "object-detection"), notes


def _tokens(inputs: tuple[InputSpec, ...], spec: OutputSpec) -> InputSpec | None:
    """Return the token ids that an output of rank 3 has a row for each of."""
    if len(spec.shape) != 3:
        return None
    return next((i for i in inputs if i.role == "tokens" and i.shape == spec.shape[:2]), None)


def _mask(inputs: tuple[InputSpec, ...], ids: InputSpec) -> str | None:
    return next((i.name for i in inputs if i.role == "mask" and i.shape == ids.shape), None)


def _masked(dense: DenseModel, ids: InputSpec) -> MaskedTokens | None:
    if dense.tokenizer is None or dense.tokenizer.mask_token is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(dense.tokenizer.content)
    mask = tokenizer.token_to_id(dense.tokenizer.mask_token)
    if mask is None:
        return None
    return MaskedTokens(ids.name, _mask(dense.inputs, ids), mask, special_tokens(dense))


def special_tokens(dense: DenseModel) -> frozenset[int]:
    """Return the tokens that stand for no text, such as `[CLS]`."""
    if dense.tokenizer is None:
        return frozenset()
    from tokenizers import Tokenizer

    added = Tokenizer.from_str(dense.tokenizer.content).get_added_tokens_decoder()
    return frozenset(i for i, token in added.items() if token.special)


def _class(label: object, classes: int, labels: tuple[str, ...] | None, where: str) -> int:
    """Return a class by its number or name."""
    if isinstance(label, str) and labels is not None and label in labels:
        return labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < classes:
        return label
    names = "" if labels is None else f", or one of {', '.join(labels[:10])}{', …' if len(labels) > 10 else ''}"
    raise CalibrationError(f"{where}: label is {label!r:.60}; expected 0 to {classes - 1}{names}")
