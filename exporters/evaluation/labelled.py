"""Evaluation data: calibration examples with their labels, and the documents that corruptions begin from."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.examples import ENCODING, Example, document_encoder, parse_line, read_examples
from lazyneuron.exporters.sources import DenseModel

__all__ = ["LabelledSet", "Row", "read_labelled"]

_LABELS = ("label", "labels")
"""The names of the array of labels in an `.npz` file."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes
    ----------
    example
        Its inputs, without a batch axis.
    label
        What stands in the data; None: nothing does.
    document
        The line's document; None in an `.npz` file.
    where
        Its place, for messages.
    """

    example: Example
    label: Any
    document: dict[str, Any] | None
    where: str


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Examples that can be gone through more than once, without being held in memory.

    Attributes
    ----------
    count
        How many there are.
    name
        The file's name.
    labelled
        Whether they have labels: all, or none.
    read
        Gives them from the first on.
    encode
        Makes an example of a document; the second argument says where it stands.
    """

    count: int
    name: str
    labelled: bool
    read: Callable[[], Iterator[Row]]
    encode: Callable[[object, str], Example]


def read_labelled(path: Path, dense: DenseModel) -> LabelledSet:
    """Open data in the calibration format, with an optional `"label"` in each line, or `label` array in `.npz`.

    Raises
    ------
    CalibrationError
        If the file is missing or empty, or the first example does not fit; while it is read, if a line does not fit
        the model, or lacks a label where others have one.
    """
    examples = read_examples(path, dense)  # counts, and refuses what cannot be read
    encode = document_encoder(dense, path.parent)
    read = _npz(path, dense, examples.count) if path.suffix == ".npz" else _lines(path, encode)
    labelled = next(read()).label is not None

    def checked() -> Iterator[Row]:
        for row in read():
            if (row.label is not None) != labelled:
                got, others = ("no label", "has one") if labelled else ("a label", "has none")
                raise CalibrationError(f"{row.where}: {got}, though the first example {others}; expected all or none")
            yield row

    return LabelledSet(examples.count, path.name, labelled, checked, encode)


def _lines(path: Path, encode: Callable[[object, str], Example]) -> Callable[[], Iterator[Row]]:
    def read() -> Iterator[Row]:
        with path.open(encoding=ENCODING) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}: line {number}"
                    document = parse_line(line, where)
                    example = encode(document, where)
                    assert isinstance(document, dict)  # else it was refused
                    yield Row(example, document.get("label"), document, where)

    return read


def _npz(path: Path, dense: DenseModel, count: int) -> Callable[[], Iterator[Row]]:
    with np.load(path, allow_pickle=False) as file:
        name = next((name for name in _LABELS if name in file.files), None)
        labels = None if name is None else file[name]
    if labels is not None and (labels.ndim == 0 or len(labels) != count):
        shape = json.dumps(list(labels.shape))
        raise CalibrationError(f"{path}: {name} has shape {shape}; expected one label for each of {count} examples")

    def read() -> Iterator[Row]:
        for i, example in enumerate(read_examples(path, dense).read()):
            yield Row(example, None if labels is None else labels[i].tolist(), None, f"{path}: example {i}")

    return read
