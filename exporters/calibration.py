"""How many neurons fire: exact counts over calibration data, in memory that does not grow with it.

The counting is done inside the dense graph, so that a batch gives one number a row and one a neuron instead of the
neurons' values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Axes, Density, InputSpec
from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.build import Builder, const
from lazyneuron.exporters.masks import mask_for, real_rows
from lazyneuron.exporters.screens import ChannelSums

__all__ = ["BlockCounts", "calibrate", "count_outputs", "density", "row_outputs"]


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
    """

    histogram: NDArray[np.int64]
    fired: NDArray[np.int64]
    channels: ChannelSums
    rows: int = field(init=False, default=0)

    @classmethod
    def empty(cls, d_model: int, d_ff: int) -> "BlockCounts":
        """Return the counts over no rows."""
        return cls(np.zeros(d_ff + 1, np.int64), np.zeros(d_ff, np.int64), ChannelSums.empty(d_model))

    def add(self, rows: NDArray[np.integer], fired: NDArray[np.integer]) -> None:
        """Add a batch: active neurons for each row [n], and active rows for each neuron [d_ff]."""
        self.histogram += np.bincount(rows, minlength=len(self.histogram))
        self.fired += fired
        self.rows += len(rows)


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
    model: ir.Model, blocks: Sequence[Block], inputs: Sequence[InputSpec], *, rows: bool = False
) -> ir.Model:
    """Return a copy of the dense graph that also counts, in outputs as `_names` calls them.

    Parameters
    ----------
    rows
        Whether it gives the blocks' rows too, in outputs as `row_outputs` calls them.
    """
    counting = model.clone()
    graph = counting.graph
    values = {v.name: v for v in [*graph.inputs, *(o for node in graph for o in node.outputs)]}
    for i, block in enumerate(blocks):
        builder = Builder(graph)
        hidden, x = values[block.hidden.name], values[block.up.x.name]
        mask = mask_for(inputs, block.rows)
        real = None if mask is None else _real_column(builder, values[mask.name])
        size = builder.Abs(hidden) if block.signed else hidden
        _add_counts(builder, size, hidden.dtype, real, block.d_ff, _names(i)[:2])
        _add_sums(builder, x, real, block.d_model, _names(i)[2:])
        if rows:
            _add_rows(builder, hidden, x, block, row_outputs(i))
    for name in (name for i in range(len(blocks)) for name in [*_names(i), *(row_outputs(i) if rows else ())]):
        graph.outputs.append(next(o for node in graph for o in node.outputs if o.name == name))
    return counting


def _names(block: int) -> list[str]:
    """Return a block's outputs: active neurons a row, active rows a neuron, a channel's sum and sum of squares."""
    return [f"lazyneuron.{what}.{block}" for what in ("rows", "fired", "sum", "squares")]


def row_outputs(block: int) -> list[str]:
    """Return a block's outputs with its rows: its input, float32 [rows, d_model], and what fired, bool [rows, d_ff]."""
    return [f"lazyneuron.{what}.{block}" for what in ("x", "active")]


def _real_column(op: Builder, mask: ir.Value) -> ir.Value:
    """Return a mask as bool [rows, 1]."""
    real: ir.Value = op.Reshape(op.Cast(mask, to=ir.DataType.BOOL), const(op, [-1, 1]))
    return real


def _add_counts(
    op: Builder, size: ir.Value, dtype: ir.DataType | None, real: ir.Value | None, d_ff: int, names: list[str]
) -> None:
    zero = const(op, np.zeros((), (dtype or ir.DataType.FLOAT).numpy()))
    active = op.Cast(op.Greater(size, zero), to=ir.DataType.INT32)
    flat = op.Reshape(active, const(op, [-1, d_ff]))
    rows = op.ReduceSum(flat, const(op, [1]), keepdims=0, _name=names[0])
    if real is not None:
        flat = op.Mul(flat, op.Cast(real, to=ir.DataType.INT32))
    fired = op.ReduceSum(flat, const(op, [0]), keepdims=0, _name=names[1])
    for value in (rows, fired):
        value.dtype = ir.DataType.INT32
        value.shape = ir.Shape([None])


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
    fetches = [name for i in range(len(blocks)) for name in _names(i)]
    for feed in feeds:
        values = session.run(fetches, feed)
        for i, (block, total) in enumerate(zip(blocks, totals, strict=True)):
            counted, fired, sums, squares = values[4 * i : 4 * i + 4]
            active = _real(counted, inputs, block.rows, feed)
            total.add(active, fired)
            total.channels.add(sums, squares, len(active))
    return totals


def _real(counts: NDArray[np.int32], inputs: Sequence[InputSpec], rows: Axes, feed: Feed) -> NDArray[np.int32]:
    real = real_rows(inputs, rows, feed)
    return counts if real is None else counts[real.reshape(-1)]
