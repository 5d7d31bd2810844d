"""How many neurons fire: exact counts over calibration data, in memory that does not grow with it.

The counting is done inside the dense graph, so that a batch gives one number a row and one a neuron instead of the
neurons' values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.artifact import BATCH_AXIS, Axes, Density, InputSpec
from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.build import Builder, const
from lazyneuron.exporters.counts import SHARED, Examples, Positions, Unions
from lazyneuron.exporters.masks import mask_for, real_rows
from lazyneuron.exporters.screens import ChannelSums

__all__ = ["BlockCounts", "calibrate", "count_outputs", "density", "hidden_output", "row_outputs"]


_SUMS = ("sum", "squares")


@dataclass(slots=True)
class BlockCounts:
    """What a block did on the calibration rows.

    Attributes
    ----------
    histogram
        int64 [d_ff + 1]: how many rows had so many neurons active.
    fired
        int64 [d_ff]: for how many rows each neuron was active.
    channels
        Sums over the block's input, for the certified screen.
    examples, positions, unions
        Active neurons by example, by position, and in the union of several rows.
    """

    histogram: NDArray[np.int64]
    fired: NDArray[np.int64]
    channels: ChannelSums
    rows: int = field(init=False, default=0)
    examples: Examples = field(init=False, default_factory=Examples)
    positions: Positions = field(init=False, default_factory=Positions)
    unions: Unions = field(init=False, default_factory=Unions)

    @classmethod
    def empty(cls, d_model: int, d_ff: int) -> "BlockCounts":
        """Return the counts over no rows."""
        return cls(np.zeros(d_ff + 1, np.int64), np.zeros(d_ff, np.int64), ChannelSums.empty(d_model))

    def add(self, rows: NDArray[np.integer], fired: NDArray[np.integer]) -> None:
        """Add a batch: active neurons for each row [n], and active rows for each neuron [d_ff]."""
        self.histogram += np.bincount(rows, minlength=len(self.histogram))
        self.fired += fired
        self.rows += len(rows)

    def place(self, rows: NDArray[np.integer], per_example: NDArray[np.integer] | None) -> None:
        """Add where a batch's rows stand.

        Parameters
        ----------
        rows
            [n]: active neurons for each row, example after example.
        per_example
            [examples]: how many of the rows each has; None where they do not go by examples, and the batch counts as
            one.
        """
        sizes = np.array([len(rows)]) if per_example is None else per_example.astype(np.int64)
        ends = sizes.cumsum()
        below = np.concatenate([[0], rows.cumsum(dtype=np.int64)])
        self.examples.add(below[ends] - below[ends - sizes], sizes)
        if per_example is not None:
            self.positions.add(rows.astype(np.int64), np.arange(len(rows)) - np.repeat(ends - sizes, sizes))

    def merge(self, other: "BlockCounts") -> None:
        """Add what the same block did on other rows."""
        self.histogram += other.histogram
        self.fired += other.fired
        self.rows += other.rows
        self.channels.add(other.channels.total, other.channels.squares, other.channels.rows)
        self.examples.merge(other.examples)
        self.positions.merge(other.positions)
        self.unions.merge(other.unions)


def density(counts: BlockCounts, top_k: int = 0) -> Density:
    """Return the share of neurons active, a row keeping at most `top_k` (0: no cap).

    A percentile p is the least share that p % of the rows do not exceed. `never_active` is without the cap.
    """
    histogram = counts.histogram
    d_ff = len(histogram) - 1
    if top_k and top_k < d_ff:
        histogram = np.concatenate([histogram[:top_k], [histogram[top_k:].sum()], np.zeros(d_ff - top_k, np.int64)])
    below = np.cumsum(histogram)

    def percentile(percent: int) -> float:
        # Integers, so that no rounding of a product decides: below · 100 ≥ percent · rows.
        return int(np.searchsorted(below * 100, percent * counts.rows)) / d_ff if counts.rows else 0.0

    return Density(
        rows=counts.rows,
        mean=float(histogram @ np.arange(d_ff + 1)) / (max(counts.rows, 1) * d_ff),
        p50=percentile(50),
        p90=percentile(90),
        p95=percentile(95),
        p99=percentile(99),
        never_active=float(np.mean(counts.fired == 0)),
    )


def count_outputs(
    model: ir.Model, blocks: Sequence[Block], inputs: Sequence[InputSpec], *, rows: bool = False, hidden: bool = False
) -> ir.Model:
    """Return a copy of the dense graph that also counts, in outputs as `_names` calls them.

    Parameters
    ----------
    rows
        Whether it gives the blocks' rows too, in outputs as `row_outputs` calls them.
    hidden
        Whether it gives the neurons' values too, in outputs as `hidden_output` calls them.
    """
    counting = model.clone()
    graph = counting.graph
    values = {v.name: v for v in [*graph.inputs, *(o for node in graph for o in node.outputs)]}
    added: list[str] = []
    for i, block in enumerate(blocks):
        builder = Builder(graph)
        neurons, x = values[block.hidden.name], values[block.up.x.name]
        mask = mask_for(inputs, block.rows)
        real = None if mask is None else _real_column(builder, values[mask.name])
        size = builder.Abs(neurons) if block.signed else neurons
        counts, sums = _names(i)[: -len(_SUMS)], _names(i)[-len(_SUMS) :]
        _add_counts(builder, size, neurons.dtype, real, block.d_ff, counts)
        _add_sums(builder, x, real, block.d_model, sums)
        if rows:
            _add_rows(builder, neurons, x, block, row_outputs(i))
        if hidden:
            _add_hidden(builder, neurons, block.d_ff, hidden_output(i))
    for i in range(len(blocks)):
        added += [*_names(i), *(row_outputs(i) if rows else ()), *([hidden_output(i)] if hidden else ())]
    for name in added:
        graph.outputs.append(next(o for node in graph for o in node.outputs if o.name == name))
    return counting


def _names(block: int) -> list[str]:
    """Return a block's outputs.

    They are active neurons a real row, active rows a neuron, neurons in the union of so many rows, and a channel's sum
    and sum of squares.
    """
    unions = [f"union{rows}" for rows in SHARED]
    return [f"lazyneuron.{what}.{block}" for what in ("rows", "fired", *unions, *_SUMS)]


def row_outputs(block: int) -> list[str]:
    """Return a block's outputs with its rows: its input, float32 [rows, d_model], and what fired, bool [rows, d_ff]."""
    return [f"lazyneuron.{what}.{block}" for what in ("x", "active")]


def hidden_output(block: int) -> str:
    """Return a block's output with its neurons' values, as the down projection gets them: float32 [rows, d_ff]."""
    return f"lazyneuron.hidden.{block}"


def _real_column(op: Builder, mask: ir.Value) -> ir.Value:
    """Return a mask as bool [rows, 1]."""
    real: ir.Value = op.Reshape(op.Cast(mask, to=ir.DataType.BOOL), const(op, [-1, 1]))
    return real


def _add_counts(
    op: Builder, size: ir.Value, dtype: ir.DataType | None, real: ir.Value | None, d_ff: int, names: list[str]
) -> None:
    zero = const(op, np.zeros((), (dtype or ir.DataType.FLOAT).numpy()))
    flat = op.Reshape(op.Greater(size, zero), const(op, [-1, d_ff]))
    if real is not None:
        flat = op.Compress(flat, op.Reshape(real, const(op, [-1])), axis=0)
    flat = op.Cast(flat, to=ir.DataType.INT32)
    outputs = [
        op.ReduceSum(flat, const(op, [axis]), keepdims=0, _name=name) for axis, name in ((1, names[0]), (0, names[1]))
    ]
    grouped, groups_of = flat, 1
    for rows, name in zip(SHARED, names[2:], strict=True):
        grouped = _grouped(op, grouped, rows // groups_of, d_ff)
        groups_of = rows
        fired = op.Cast(op.Greater(grouped, const(op, np.zeros((), np.int32))), to=ir.DataType.INT32)
        outputs.append(op.ReduceSum(fired, const(op, [1]), keepdims=0, _name=name))
    for value in outputs:
        value.dtype = ir.DataType.INT32
        value.shape = ir.Shape([None])


def _grouped(op: Builder, rows: ir.Value, count: int, d_ff: int) -> ir.Value:
    """Return the sums of so many rows of int32 [n, d_ff] each: [n // count, d_ff].

    They stand n // count apart, so that a group has rows of several examples, as a served batch has. Left-over rows
    are in none.
    """
    size = const(op, [count])
    height = op.Slice(op.Shape(rows), const(op, [0]), const(op, [1]))
    whole = op.Slice(rows, const(op, [0]), op.Mul(op.Div(height, size), size), const(op, [0]))
    summed: ir.Value = op.ReduceSum(op.Reshape(whole, const(op, [count, -1, d_ff])), const(op, [0]), keepdims=0)
    return summed


def _add_sums(op: Builder, x: ir.Value, real: ir.Value | None, d_model: int, names: list[str]) -> None:
    # In double: a channel far from zero leaves a float32 sum of squares no digits for its spread.
    flat = op.Reshape(op.Cast(x, to=ir.DataType.DOUBLE), const(op, [-1, d_model]))
    if real is not None:  # Where, since padding may hold anything
        flat = op.Where(real, flat, const(op, np.zeros(())))
    for values, name in ((flat, names[0]), (op.Mul(flat, flat), names[1])):
        total = op.ReduceSum(values, const(op, [0]), keepdims=0, _name=name)
        total.dtype = ir.DataType.DOUBLE
        total.shape = ir.Shape([d_model])


def _add_rows(op: Builder, hidden: ir.Value, x: ir.Value, block: Block, names: list[str]) -> None:
    dtype = (hidden.dtype or ir.DataType.FLOAT).numpy()
    flat = op.Reshape(op.Cast(x, to=ir.DataType.FLOAT), const(op, [-1, block.d_model]), _name=names[0])
    active = op.Greater(op.Reshape(hidden, const(op, [-1, block.d_ff])), const(op, np.zeros((), dtype)), _name=names[1])
    flat.dtype, flat.shape = ir.DataType.FLOAT, ir.Shape([None, block.d_model])
    active.dtype, active.shape = ir.DataType.BOOL, ir.Shape([None, block.d_ff])


def _add_hidden(op: Builder, hidden: ir.Value, d_ff: int, name: str) -> None:
    flat = op.Reshape(op.Cast(hidden, to=ir.DataType.FLOAT), const(op, [-1, d_ff]), _name=name)
    flat.dtype, flat.shape = ir.DataType.FLOAT, ir.Shape([None, d_ff])


def calibrate(
    session: ort.InferenceSession, blocks: Sequence[Block], inputs: Sequence[InputSpec], feeds: Iterable[Feed]
) -> list[BlockCounts]:
    """Run the counting graph over batches and add up, over real rows only.

    Parameters
    ----------
    session
        Of the graph that `count_outputs` gives.
    """
    totals = [BlockCounts.empty(block.d_model, block.d_ff) for block in blocks]
    names = [_names(i) for i in range(len(blocks))]
    for feed in feeds:
        values = iter(session.run([name for own in names for name in own], feed))
        for block, own, total in zip(blocks, names, totals, strict=True):
            rows, fired, *unions, sums, squares = islice(values, len(own))
            total.add(rows, fired)
            total.unions.add(unions)
            total.place(rows, _per_example(len(rows), inputs, block.rows, feed))
            total.channels.add(sums, squares, len(rows))
    return totals


def _per_example(rows: int, inputs: Sequence[InputSpec], axes: Axes, feed: Feed) -> NDArray[np.integer] | None:
    """Return how many of a batch's real rows each example has; None where they do not go by examples."""
    real = real_rows(inputs, axes, feed)
    if axes[:1] != (BATCH_AXIS,):
        return None
    if real is not None:
        return np.asarray(real.reshape(len(real), -1).sum(axis=1))
    sizes = {len(feed[spec.name]) for spec in inputs if spec.shape and spec.shape[0] == BATCH_AXIS}
    examples = max(sizes, default=0)
    return np.full(examples, rows // examples) if examples and rows % examples == 0 else None
