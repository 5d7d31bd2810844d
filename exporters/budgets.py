"""Each row's share of k: the request's budget, and 0 for padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from lazyneuron.engine.artifact import BATCH_AXIS, Axes, InputSpec
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.build import Builder, const
from lazyneuron.exporters.masks import mask_for

__all__ = ["BUDGET_INPUT", "RowBudgets"]

BUDGET_INPUT = "lazyneuron.budget"


class RowBudgets:
    """Builds the operators' `budget` operands, once for each kind of rows.

    The graph gets the input `lazyneuron.budget`, float32 [batch]. It is an initializer too, [1.0], so it may be
    left out.

    Parameters
    ----------
    graph
        The graph to build in.
    inputs
        Its inputs.
    use_masks
        Whether rows that a mask calls padding get budget 0.
    """

    def __init__(self, graph: ir.Graph, inputs: Sequence[InputSpec], *, use_masks: bool) -> None:
        self._graph = graph
        self._inputs = inputs
        self._use_masks = use_masks
        self._built: dict[tuple[Axes, bool], ir.Value] = {}
        self.used = False
        one = ir.tensor(np.ones(1, np.float32), name=BUDGET_INPUT)
        shape = ir.Shape([ir.SymbolicDim(BATCH_AXIS)])
        self._budget = ir.Value(name=BUDGET_INPUT, shape=shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=one)
        graph.register_initializer(self._budget)
        graph.inputs.append(self._budget)

    def remove(self) -> None:
        """Take the budget input out of the graph again."""
        self._graph.inputs.remove(self._budget)
        del self._graph.initializers[BUDGET_INPUT]

    def rows_of(self, op: Any, block: Block, pre: ir.Value) -> ir.Value | None:  # noqa: ANN401 (untyped builder)
        """Return a block's budget operand, in the shape of its rows in the graph; None if its rows are no request's."""
        if block.rows[:1] != (BATCH_AXIS,):
            return None
        self.used = True
        mask = mask_for(self._inputs, block.rows) if self._use_masks else None
        if mask is None and not block.flattened:
            return self._like(op, block.rows, pre)
        key = (block.rows, block.flattened)
        if key not in self._built:
            # Of inputs alone, so it may stand before all blocks; the graph is sorted in the end.
            first = Builder(self._graph)
            budget = self._unsqueezed(first, len(block.rows))
            if mask is not None:
                real = first.Cast(first.Cast(self._input(mask.name), to=ir.DataType.BOOL), to=ir.DataType.FLOAT)
                rows = first.Mul(real, budget)
            else:
                rows = first.Expand(budget, self.shape_of(first, block.rows))
            self._built[key] = first.Reshape(rows, const(first, [-1])) if block.flattened else rows
        return self._built[key]

    def shape_of(self, op: Any, rows: Axes) -> ir.Value:  # noqa: ANN401
        """Return the lengths of the rows' axes, read off the model's inputs: int64 [axes]."""
        lengths: ir.Value = op.Concat(*(self._length(op, axis) for axis in rows), axis=0)
        return lengths

    def _length(self, op: Any, axis: int | str) -> ir.Value:  # noqa: ANN401
        if isinstance(axis, int):
            return const(op, [axis])
        spec = next(s for s in self._inputs if axis in s.shape)
        length: ir.Value = op.Gather(op.Shape(self._input(spec.name)), const(op, [spec.shape.index(axis)]), axis=0)
        return length

    def _like(self, op: Any, rows: Axes, pre: ir.Value) -> ir.Value:  # noqa: ANN401
        shape = op.Slice(op.Shape(pre), const(op, [0]), const(op, [-1]))
        expanded: ir.Value = op.Expand(self._unsqueezed(op, len(rows)), shape)
        return expanded

    def _unsqueezed(self, op: Any, rank: int) -> ir.Value:  # noqa: ANN401
        if rank == 1:
            return self._budget
        spread: ir.Value = op.Unsqueeze(self._budget, const(op, list(range(1, rank))))
        return spread

    def _input(self, name: str) -> ir.Value:
        return next(value for value in self._graph.inputs if value.name == name)
