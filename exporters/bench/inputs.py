"""Input of a wanted batch and length for a model: random, or cut from a person's examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lazyneuron.engine.artifact import BATCH_AXIS, ragged_axes
from lazyneuron.engine.errors import CalibrationError, InputError
from lazyneuron.engine.model import Model
from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.examples import Example, random_example, read_examples
from lazyneuron.exporters.sources import DenseModel

__all__ = ["Inputs", "default_shapes", "shape_feeds"]

_BATCHES, _LENGTHS = (1, 8), (16, 128)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch of examples of one length; None where no axis is ragged."""

    batch: int
    length: int | None
    feed: Feed


def default_shapes(dense: DenseModel, batches: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int | None]]:
    """Return every batch with every length.

    Parameters
    ----------
    batches, lengths
        What a person asks for; empty: what the model takes.

    Raises
    ------
    InputError
        If the model is fixed to another batch, has no ragged axis, or takes no such length.
    """
    chosen_batches = _batches(dense, batches)
    axes = {axis: spec.name for spec in dense.inputs for axis in ragged_axes(spec.shape)}
    if not axes:
        if lengths:
            raise InputError("length", got=str(lengths[0]), expected="none: no input of this model has such an axis")
        return [(batch, None) for batch in chosen_batches]
    longest = min((dense.max_lengths[axis] for axis in axes if axis in dense.max_lengths), default=None)
    if longest is not None:
        for length in lengths:
            if length > longest:
                raise InputError("length", got=str(length), expected=f"at most {longest}, which the model takes")
    chosen = lengths or sorted({min(length, longest or length) for length in _LENGTHS})
    return [(batch, length) for batch in chosen_batches for length in chosen]


def _batches(dense: DenseModel, wanted: Sequence[int]) -> Sequence[int]:
    fixed = {spec.shape[0] for spec in dense.inputs if spec.shape and spec.shape[0] != BATCH_AXIS}
    if not fixed:
        return wanted or _BATCHES
    # An axis 0 of any other name is no batch: such a model takes one example.
    size = next((n for n in fixed if isinstance(n, int)), 1)
    if other := [batch for batch in wanted if batch != size]:
        raise InputError("batch", got=str(other[0]), expected=f"{size}: the model is fixed to it")
    return (size,)


def shape_feeds(
    dense: DenseModel, model: Model, shapes: Sequence[tuple[int, int | None]], calibration: Path | None
) -> list[Inputs]:
    """Make the input for each (batch, length), checked as a request is.

    Raises
    ------
    CalibrationError
        If the examples do not fit the model, or too few of them are long enough.
    InputError
        If the model does not take the shape.
    """
    made = []
    for batch, length in shapes:
        examples = _random(dense, batch, length) if calibration is None else _cut(dense, calibration, batch, length)
        feed = {spec.name: np.stack([example[spec.name] for example in examples]) for spec in dense.inputs}
        model.request(feed)
        made.append(Inputs(batch, length, feed))
    return made


def _random(dense: DenseModel, batch: int, length: int | None) -> list[Example]:
    rng = np.random.default_rng(0)
    axes = {axis for spec in dense.inputs for axis in ragged_axes(spec.shape)}
    return [random_example(dense, dict.fromkeys(axes, length or 1), rng) for _ in range(batch)]


def _cut(dense: DenseModel, calibration: Path, batch: int, length: int | None) -> list[Example]:
    """Return the first examples that are long enough, cut to the length."""
    found: list[Example] = []
    for example in read_examples(calibration, dense).read():
        short = _shortened(dense, example, length)
        if short is not None:
            found.append(short)
        if len(found) == batch:
            return found
    of = "" if length is None else f" of length {length} or more"
    raise CalibrationError(f"{calibration}: {len(found)} examples{of}; expected at least {batch}")


def _shortened(dense: DenseModel, example: Example, length: int | None) -> Example | None:
    """Return an example with every ragged axis cut to a length; None if one is shorter."""
    cut: Example = {}
    for spec in dense.inputs:
        index = []
        for axis, size in zip(spec.shape[1:], example[spec.name].shape, strict=True):
            ragged = isinstance(axis, str) and length is not None
            if ragged and size < (length or 0):
                return None
            index.append(slice(length) if ragged else slice(None))
        cut[spec.name] = example[spec.name][tuple(index)]
    return cut
