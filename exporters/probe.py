"""What each alternative costs the whole model in quality.

A threshold, a centre and a predictor can be turned on for each block of the dense graph.

before: MatMul(h, down)
after:  MatMul(Where(|h − centre| > threshold and scores > score_threshold, h, centre), down)

Threshold, centre and score threshold are inputs whose defaults keep everything, so one session measures all
alternatives of all blocks, and combinations of them.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Quality
from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.build import Builder, initializer
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.predictors.predictor import Predictor
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.quality import Tally, drop, real_part
from lazyneuron.exporters.sessions import open_model

__all__ = ["MOST_EXAMPLES", "Probe"]

MOST_EXAMPLES = 64
"""Alternatives are measured on at most so many calibration examples."""
_EVERY = -3e38
"""A score threshold that every score is above."""

Trial = Mapping[str, Choice]


class Probe:
    """Measures the drop of quality of alternatives on calibration examples.

    Parameters
    ----------
    measured
        The dense graph and its examples.
    predictors
        Those that some alternatives have, by the name of the block's output.
    scratch
        A folder for the graph.
    argmax
        Whether the largest entry of an output has a meaning.
    """

    def __init__(self, measured: Measured, predictors: Mapping[str, Predictor], scratch: Path, *, argmax: bool) -> None:
        self._measured = measured
        self._argmax = argmax
        self._numbers = {key: i for i, key in enumerate(measured.ledger.blocks)}
        model = _switchable(measured.dense.model, measured.ledger.blocks, predictors)
        measured.session.close()  # one graph's weights at a time
        self._session = open_model(model, scratch / "probe.onnx", sparse=False)

    def drops(self, trials: Sequence[Trial], progress: Progress) -> list[float]:
        """Return the drop of each trial, as `quality.drop` measures it.

        Parameters
        ----------
        trials
            The choices of some blocks, by the names of their outputs; all other blocks are dense.
        """
        dense, examples = self._measured.dense, list(self._measured.used_examples(MOST_EXAMPLES))
        names = [spec.name for spec in dense.outputs]
        tallies = [[Tally(spec, argmax=self._argmax) for spec in dense.outputs] for _ in trials]
        batches = ceil(len(examples) / self._measured.batch_size)
        progress.step("measuring what the alternatives cost in quality", batches * len(trials))
        for feed in self._measured.feeds(iter(examples)):
            expected = self._session.run(names, feed)
            real = [real_part(dense.inputs, spec, feed) for spec in dense.outputs]
            for trial, row in zip(trials, tallies, strict=True):
                got = self._session.run(names, feed | self._switches(trial))
                for tally, rows, a, b in zip(row, real, expected, got, strict=True):
                    tally.add(a if rows is None else a[rows], b if rows is None else b[rows])
                progress.advance()
        return [drop(Quality(examples=len(examples), outputs=tuple(t.agreement() for t in row))) for row in tallies]

    def _switches(self, trial: Trial) -> Feed:
        feed: Feed = {}
        for key, choice in trial.items():
            threshold, centre, least = _names(self._numbers[key])
            if choice.threshold > 0 or choice.centre is not None:
                feed[threshold] = np.array([choice.threshold], np.float32)
            if choice.centre is not None:
                feed[centre] = choice.centre
            if choice.predictor is not None:
                feed[least] = np.array([choice.predictor.threshold], np.float32)
        return feed


def _names(block: int) -> tuple[str, str, str]:
    return f"lazyneuron.threshold.{block}", f"lazyneuron.centre.{block}", f"lazyneuron.score_threshold.{block}"


def _switchable(dense: ir.Model, blocks: Mapping[str, Block], predictors: Mapping[str, Predictor]) -> ir.Model:
    model = dense.clone()
    graph = model.graph
    values = {v.name: v for v in [*graph.inputs, *(o for node in graph for o in node.outputs)]}
    for i, (key, block) in enumerate(blocks.items()):
        op = Builder(graph)
        hidden, product = values[block.hidden.name], values[block.down.product.name]
        threshold, centre, least = _names(i)
        taken = _as(op, _switch(graph, centre, np.zeros(block.d_ff, np.float32)), hidden)
        limit = _as(op, _switch(graph, threshold, np.array([-1], np.float32)), hidden)
        kept = op.Greater(op.Abs(op.Sub(hidden, taken)), limit)
        if key in predictors:
            scores = _scores(op, graph, key, predictors[key], values[block.up.x.name])
            kept = op.And(kept, op.Greater(scores, _switch(graph, least, np.array([_EVERY], np.float32))))
        cut = op.Where(kept, hidden, taken)
        cut.dtype, cut.shape = hidden.dtype, hidden.shape
        node = product.producer()
        assert node is not None
        assert node.inputs[0] is hidden
        node.replace_input_with(0, cut)
    ir.passes.Sequential(passes.TopologicalSortPass(), passes.NameFixPass())(model)
    return model


def _switch(graph: ir.Graph, name: str, default: NDArray[np.float32]) -> ir.Value:
    value = initializer(graph, name, default)
    graph.inputs.append(value)
    return value


def _as(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    if like.dtype in (None, ir.DataType.FLOAT):
        return value
    cast: ir.Value = op.Cast(value, to=like.dtype)
    return cast


def _scores(op: Builder, graph: ir.Graph, key: str, predictor: Predictor, x: ir.Value) -> ir.Value:
    parts = {"first": predictor.first, "second": predictor.second, "offset": predictor.offset}
    first, second, offset = (initializer(graph, f"lazyneuron.{key}.{name}", part) for name, part in parts.items())
    rows = x if x.dtype in (None, ir.DataType.FLOAT) else op.Cast(x, to=ir.DataType.FLOAT)
    scores: ir.Value = op.Add(op.MatMul(op.MatMul(rows, first), second), offset)
    return scores
