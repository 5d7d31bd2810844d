"""The sparse graph against the dense one, on data that calibration has not seen."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import InputSpec, OutputAgreement, OutputSpec, Quality
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.examples import Array
from lazyneuron.exporters.masks import real_rows

__all__ = ["Runs", "Tally", "compare", "drop", "real_part", "worst"]

_PIECE = 1 << 20
"""So many entries are compared at a time: in float64 they take a few times their own memory."""


class Runs(Protocol):
    """What runs a graph, as ONNX Runtime's session does."""

    def run(self, fetches: Sequence[str], feed: Feed, /) -> list[Any]:
        """Give the outputs of these names."""


def compare(
    expected: Iterable[tuple[Feed, Sequence[Array]]],
    sparse: Runs,
    inputs: Sequence[InputSpec],
    outputs: Sequence[OutputSpec],
    *,
    argmax: bool,
) -> Quality:
    """Run the sparse graph on batches and compare its outputs with the dense one's over real rows.

    Parameters
    ----------
    expected
        The batches, each with what the dense graph gave, in the order of `outputs`.
    argmax
        Whether the largest entry of the last axis has a meaning, as in logits.
    """
    tallies = [Tally(spec, argmax=argmax) for spec in outputs]
    names = [spec.name for spec in outputs]
    examples = 0
    for feed, dense in expected:
        examples += len(next(iter(feed.values())))
        for tally, a, b in zip(tallies, dense, sparse.run(names, feed), strict=True):
            real = real_part(inputs, tally.spec, feed)
            tally.add(a if real is None else a[real], b if real is None else b[real])
    return Quality(examples=examples, outputs=tuple(tally.agreement() for tally in tallies))


def worst(quality: Quality) -> float:
    """Return the largest error of any output, relative to that output's largest entry."""
    return max(output.max_rel_error for output in quality.outputs)


def drop(quality: Quality) -> float:
    """Return what was lost, as a share: the greatest of any output.

    Of an output whose largest entry has a meaning, the share of rows where it is in another place; of others the root
    of the mean squared error, over that of the mean squared dense output.
    """
    losses = []
    for output in quality.outputs:
        error = output.max_rel_error if output.rms_rel_error is None else output.rms_rel_error
        losses.append(error if output.same_argmax is None else 1 - output.same_argmax)
    return max(losses)


def real_part(inputs: Sequence[InputSpec], spec: OutputSpec, feed: Feed) -> NDArray[np.bool_] | None:
    """Return which rows of an output are real, where a mask has the axes that the output begins with."""
    for rank in range(len(spec.shape), 0, -1):
        real = real_rows(inputs, spec.shape[:rank], feed)
        if real is not None:
            return real
    return None


class Tally:
    """Adds up how two versions of an output differ.

    Parameters
    ----------
    spec
        The output.
    argmax
        Whether its largest entry has a meaning, as in logits.
    """

    def __init__(self, spec: OutputSpec, *, argmax: bool) -> None:
        self.spec = spec
        self._argmax = argmax and len(spec.shape) > 1 and spec.dtype.startswith("float")
        self._error = self._largest = 0.0
        self._squared_error = self._squares = 0.0
        self._rows = self._same = 0

    def add(self, dense: NDArray[np.generic], sparse: NDArray[np.generic]) -> None:
        """Add the same rows of both."""
        if dense.size == 0:
            return
        if dense.shape != sparse.shape:
            raise CheckpointError(
                f"output {self.spec.name}: the sparse graph gives shape {list(sparse.shape)}, the dense one "
                f"{list(dense.shape)}; please report this"
            )
        rows = np.atleast_1d(dense), np.atleast_1d(sparse)
        step = max(_PIECE * len(rows[0]) // dense.size, 1)
        for start in range(0, len(rows[0]), step):
            self._add(*(part[start : start + step].astype(np.float64) for part in rows))

    def _add(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        with np.errstate(invalid="ignore"):
            difference = np.abs(a - b)
        difference[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0  # infinities and NaN that both have
        self._error = max(self._error, float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()))
        finite = a[np.isfinite(a)]
        self._largest = max(self._largest, float(np.abs(finite).max(initial=0.0)))
        with np.errstate(over="ignore"):
            self._squared_error += float(np.square(np.nan_to_num(difference, nan=np.inf)).sum())
            self._squares += float(np.square(finite).sum())
        if self._argmax:
            same = a.argmax(-1) == b.argmax(-1)
            self._rows += same.size
            self._same += int(same.sum())

    def agreement(self) -> OutputAgreement:
        """Return the figures over all that was added."""
        relative = self._error / self._largest if self._largest else self._error
        rms = self._squared_error / self._squares if self._squares else self._squared_error
        return OutputAgreement(
            name=self.spec.name,
            max_abs_error=min(self._error, np.finfo(np.float64).max),
            max_rel_error=min(relative, np.finfo(np.float64).max),
            rms_rel_error=min(float(np.sqrt(rms)), np.finfo(np.float64).max),
            same_argmax=self._same / self._rows if self._rows else None,
        )
