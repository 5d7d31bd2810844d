"""Both graphs over the same examples, in batches, to sums: nothing of an example is kept but those."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.artifact import InputSpec, OutputAgreement, OutputSpec
from lazyneuron.engine.errors import CalibrationError, InputError, one_line
from lazyneuron.engine.heads.embedding import embed
from lazyneuron.engine.model import Model
from lazyneuron.exporters.batches import Feed, batch_size, batches
from lazyneuron.exporters.evaluation.labelled import Row
from lazyneuron.exporters.evaluation.readings import Embeddings, Reading, read_output
from lazyneuron.exporters.evaluation.statistics import DENSE, SPARSE, WIDTH, Column, Groups, Measured, measure
from lazyneuron.exporters.examples import Array, Example
from lazyneuron.exporters.masks import mask_for
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.quality import Tally, real_part

__all__ = ["NEIGHBOURS", "Graphs", "Outcome", "run_both"]

NEIGHBOURS = 2048
"""The most examples whose nearest neighbours are compared: their vectors are kept."""
_BATCH = 8
_WIDE = 4096
"""Outputs with more entries a row (a vocabulary) are made of one example at a time."""
_TIE = 1e-6
"""Cosines closer than this are equal."""
_SAME = 1e-4
"""The largest error of an output, relative to its largest entry, that counts as rounding."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """An artifact and its dense graph, both open."""

    model: Model
    sparse: ort.InferenceSession
    dense: ort.InferenceSession

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The model's inputs."""
        return self.model.manifest.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The model's outputs, without the counts."""
        return self.model.manifest.outputs

    @property
    def batch_size(self) -> int:
        """How many examples are run together."""
        sizes = [spec.shape[-1] for spec in self.outputs if spec.shape]
        wide = any(isinstance(size, int) and size > _WIDE for size in sizes)
        return batch_size(self.inputs, 1 if wide else _BATCH)

    def feeds(self, examples: Iterable[Example]) -> Iterator[Feed]:
        """Join examples to batches."""
        return batches(examples, self.inputs, self.batch_size)


@dataclass(slots=True)
class Outcome:
    """What a pass over the data gave.

    Attributes
    ----------
    groups
        Sums over the examples.
    neighbours
        Those of nearest neighbours, of the first examples alone.
    sparsity
        What the artifact skipped.
    agreement
        How each output compares.
    examples
        How many were run.
    """

    groups: Groups
    neighbours: Groups
    sparsity: Sparsity
    agreement: tuple[OutputAgreement, ...]

    @property
    def examples(self) -> int:
        """How many examples were run."""
        return self.groups.examples

    @property
    def same(self) -> bool:
        """Whether the outputs differ by no more than rounding."""
        return all(output.max_rel_error <= _SAME for output in self.agreement)

    def measured(self, name: str) -> Measured:
        """Return a metric of both graphs."""
        groups = self.neighbours if name == "same nearest neighbour" else self.groups
        return measure(name, groups, same=self.same)


@dataclass(slots=True)
class _Vectors:
    """The first examples' embeddings."""

    dense: list[NDArray[np.float32]] = field(default_factory=list)
    sparse: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, dense: Array, sparse: Array) -> None:
        if len(self.dense) < NEIGHBOURS:
            self.dense.append(embed(dense).vector)
            self.sparse.append(embed(sparse).vector)

    def groups(self) -> Groups:
        groups = Groups()
        for same in _same_nearest(self.dense, self.sparse):
            sums = np.zeros((2, WIDTH))
            sums[:, Column.ROWS] = sums[DENSE, Column.NEIGHBOURS] = 1
            sums[SPARSE, Column.NEIGHBOURS] = same
            groups.add(sums)
        return groups


def _same_nearest(dense: list[NDArray[np.float32]], sparse: list[NDArray[np.float32]]) -> list[bool]:
    """Tell for each example whether its nearest other by the sparse vectors is the nearest by the dense ones, too.

    One as near as that but for rounding is no other one: of equal texts the order is nobody's.
    """
    if len(dense) < 2:
        return []
    cosines = _cosines(dense)
    found = np.take_along_axis(cosines, _cosines(sparse).argmax(1)[:, None], 1)[:, 0]
    return [bool(same) for same in found >= cosines.max(1) - _TIE]


def _cosines(vectors: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    stacked = np.nan_to_num(np.stack(vectors).astype(np.float64))
    stacked /= np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines: NDArray[np.float64] = stacked @ stacked.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines


def run_both(graphs: Graphs, rows: Iterable[Row], reading: Reading, progress: Progress) -> Outcome:
    """Run both graphs over the examples.

    Raises
    ------
    CalibrationError
        If an example or its label does not fit the model, or nothing is left to judge.
    """
    spec = read_output(graphs.inputs, graphs.outputs)
    place = graphs.outputs.index(spec)
    tallies = [Tally(output, argmax=False) for output in graphs.outputs]
    groups, vectors = Groups(), _Vectors()
    skipped: list[Sparsity] = []
    for feed, prepared in _feeds(graphs, rows, reading):
        dense, sparse, sparsity = _run(graphs, feed, prepared[0][0].where)
        skipped = [Sparsity.total([*skipped, sparsity])]
        for tally, a, b in zip(tallies, dense, sparse, strict=True):
            real = real_part(graphs.inputs, tally.spec, feed)
            tally.add(a if real is None else a[real], b if real is None else b[real])
        for i, (row, target) in enumerate(prepared):
            cut = _cut(graphs, spec, row.example)
            pair = dense[place][i][cut], sparse[place][i][cut]
            groups.add(reading.score(*_real(graphs, spec, row.example, pair, reading), target))
            if isinstance(reading, Embeddings):
                vectors.add(*_real(graphs, spec, row.example, pair, reading))
            progress.advance()
    if groups.examples == 0 or groups.sums[:, DENSE, Column.ROWS].sum() == 0:
        raise CalibrationError(
            "the data has nothing to judge: a language model needs texts of two tokens or more, an encoder–decoder "
            'also a "target", and a token classifier a label other than -100'
        )
    return Outcome(groups, vectors.groups(), skipped[0], tuple(tally.agreement() for tally in tallies))


def _feeds(graphs: Graphs, rows: Iterable[Row], reading: Reading) -> Iterator[tuple[Feed, list[tuple[Row, Any]]]]:
    """Join examples to batches; give each with its rows and what they are judged by."""
    waiting: deque[tuple[Row, Any]] = deque()

    def examples() -> Iterator[Example]:
        for place, row in enumerate(rows):
            prepared = reading.prepare(row, place)
            waiting.append(prepared)
            yield prepared[0].example

    for feed in graphs.feeds(examples()):
        first = graphs.inputs[0]
        # A lone example may have been repeated to fill a fixed batch.
        count = min(len(feed[first.name]), len(waiting))
        yield feed, [waiting.popleft() for _ in range(count)]


def _run(graphs: Graphs, feed: Feed, where: str) -> tuple[list[Array], list[Array], Sparsity]:
    names = [output.name for output in graphs.outputs]
    try:
        prediction = graphs.model.predict(feed)
    except InputError as error:
        raise CalibrationError(f"{where}: {error}") from error
    try:
        dense = graphs.dense.run(names, feed)
    except Exception as error:
        raise CalibrationError(f"{where}: the dense graph fails on it: {one_line(error, 300)}") from error
    return dense, [prediction.outputs[name] for name in names], prediction.sparsity


def _cut(graphs: Graphs, spec: OutputSpec, example: Example) -> tuple[slice, ...]:
    """Return where an example's own part of the output lies, without what it was padded to."""
    lengths: Mapping[str, int] = {
        axis: size
        for i in graphs.inputs
        for axis, size in zip(i.shape[1:], example[i.name].shape, strict=True)
        if isinstance(axis, str)
    }
    return tuple(slice(lengths.get(axis)) if isinstance(axis, str) else slice(None) for axis in spec.shape[1:])


def _real(
    graphs: Graphs, spec: OutputSpec, example: Example, pair: tuple[Array, Array], reading: Reading
) -> tuple[Array, Array]:
    """Leave out the rows that the example's own mask leaves out, where the reading does not place them itself."""
    mask = mask_for(graphs.inputs, spec.shape[:2]) if len(spec.shape) > 2 else None
    if mask is None or reading.deciding in {"perplexity", "token accuracy"}:
        return pair
    real = example[mask.name] != 0
    return pair[0][real], pair[1][real]
