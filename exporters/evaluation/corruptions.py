"""Corrupted data: images with noise, texts with typos or without some of their tokens.

What is drawn for an example depends on its place in the data alone, so both graphs see the same, each time.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import ImageSpec, InputSpec
from lazyneuron.exporters.evaluation.labelled import LabelledSet, Row
from lazyneuron.exporters.evaluation.noise import NOISES, Noise
from lazyneuron.exporters.evaluation.readings import Reading, TokenClasses, special_tokens
from lazyneuron.exporters.sources import DenseModel
from lazyneuron.exporters.targets import DECODER

__all__ = ["Corruption", "corruptions_for", "drop_tokens", "make_typos"]

_TYPOS = (0.02, 0.05, 0.1)
"""Shares of a text's letters."""
_DROPPED = (0.05, 0.1, 0.2)
"""Shares of a text's tokens."""
_SEEN = 64
"""Examples that tell the range of pixels where no preprocessor does."""
_White = NDArray[np.float64] | float


@dataclass(frozen=True, slots=True)
class Corruption:
    """One way to corrupt an example.

    Attributes
    ----------
    kind, amount
        What it is, and how much of it, in words.
    apply
        Corrupts a row; its place in the data is the seed.
    """

    kind: str
    amount: str
    apply: Callable[[Row, int], Row]


def corruptions_for(dense: DenseModel, rows: LabelledSet, reading: Reading) -> tuple[list[Corruption], list[str]]:
    """Return what can be done to the data, and in sentences what cannot."""
    found = _noises(dense, rows)
    if isinstance(reading, TokenClasses):
        return found, ["Texts are not corrupted: each of their tokens has a label."]
    first = next(rows.read())
    if dense.tokenizer is not None and first.document is not None and isinstance(first.document.get("text"), str):
        found += [
            Corruption("typos", f"{share:.0%} of letters", partial(_with_typos, share=share, rows=rows))
            for share in _TYPOS
        ]
    ids = next((i for i in dense.inputs if i.role == "tokens" and not i.name.startswith(DECODER)), None)
    if ids is not None and len(ids.shape) == 2 and isinstance(ids.shape[1], str):
        along = tuple(i.name for i in dense.inputs if i.shape == ids.shape)
        drop = partial(_without_tokens, ids=ids.name, along=along, special=special_tokens(dense))
        found += [Corruption("dropped tokens", f"{share:.0%}", partial(drop, share=share)) for share in _DROPPED]
    notes = [] if found else ["Nothing was corrupted: neither images nor texts go into this model."]
    return found, notes


def make_typos(text: str, share: float, rng: np.random.Generator) -> str:
    """Return a text in which a share of the letters is swapped with the next one, left out, doubled or another."""
    letters, made, i = list(text), [], 0
    while i < len(letters):
        letter = letters[i]
        if not letter.isalpha() or rng.random() >= share:
            made.append(letter)
        elif (kind := rng.integers(4)) == 0 and i + 1 < len(letters):
            made += [letters[i + 1], letter]
            i += 1
        elif kind == 1:
            made += [letter, letter]
        elif kind == 2:
            made.append(string.ascii_lowercase[rng.integers(26)])
        i += 1
    return "".join(made)


def drop_tokens(own: NDArray[np.bool_], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which tokens stay, when each of the text's own is dropped at a chance of `share`; one of them stays."""
    stays = ~own | (rng.random(len(own)) >= share)
    if own.any() and not stays[own].any():
        stays[np.flatnonzero(own)[0]] = True
    return stays


def _noises(dense: DenseModel, rows: LabelledSet) -> list[Corruption]:
    spec = _image_input(dense)
    if spec is None:
        return []
    black, white = _range(dense.image) if dense.image is not None else _seen_range(rows, spec.name)
    return [
        Corruption(
            kind,
            words.format(amount),
            partial(_noisy, name=spec.name, ends=(black, white), noise=noise, amount=amount, seed=seed),
        )
        for seed, (kind, (noise, amounts, words)) in enumerate(NOISES.items())
        for amount in amounts
    ]


def _image_input(dense: DenseModel) -> InputSpec | None:
    """Return the input that images go into: a preprocessor's, or one of floats [batch, …, height, width]."""
    if dense.image is not None:
        return next(i for i in dense.inputs if i.name == dense.image.input)
    fixed = [i for i in dense.inputs if all(isinstance(axis, int) for axis in i.shape[1:])]
    return next((i for i in fixed if len(i.shape) >= 3 and i.dtype.startswith("float")), None)


def _range(image: ImageSpec) -> tuple[_White, _White]:
    """Return what black and white become by preprocessing, [channels, 1, 1]."""
    mean = np.reshape(image.mean or (0.0,), (-1, 1, 1))
    std = np.reshape(image.std or (1.0,), (-1, 1, 1))
    return (0.0 - mean) / std, (255 * (1.0 if image.rescale is None else image.rescale) - mean) / std


def _seen_range(rows: LabelledSet, name: str) -> tuple[float, float]:
    seen = [row.example[name] for row in islice(rows.read(), _SEEN)]
    low, high = min(float(x.min()) for x in seen), max(float(x.max()) for x in seen)
    return low, high if high > low else low + 1.0


def _noisy(
    row: Row, place: int, *, name: str, ends: tuple[_White, _White], noise: Noise, amount: float, seed: int
) -> Row:
    (black, white), pixels = ends, row.example[name]
    rng = np.random.default_rng((2 + seed, place))
    changed = noise((pixels.astype(np.float64) - black) / (white - black), amount, rng) * (white - black) + black
    return replace(row, example=row.example | {name: changed.astype(pixels.dtype)})


def _with_typos(row: Row, place: int, *, share: float, rows: LabelledSet) -> Row:
    text = None if row.document is None else row.document.get("text")
    if row.document is None or not isinstance(text, str):
        return row
    changed = make_typos(text, share, np.random.default_rng((10, place)))
    if not changed.strip():
        return row
    return replace(row, example=rows.encode(row.document | {"text": changed}, row.where))


def _without_tokens(
    row: Row, place: int, *, ids: str, along: tuple[str, ...], special: frozenset[int], share: float
) -> Row:
    own = ~np.isin(row.example[ids], list(special))
    stays = drop_tokens(own, share, np.random.default_rng((11, place)))
    return replace(row, example=row.example | {name: row.example[name][stays] for name in along})
