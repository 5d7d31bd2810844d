"""The dense graph to the sparse one: each chosen block becomes the operator `SparseDown`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from lazyneuron.engine.artifact import InputSpec
from lazyneuron.exporters.blocks import Block, find_blocks, replace_blocks
from lazyneuron.exporters.budgets import BUDGET_INPUT, RowBudgets
from lazyneuron.exporters.build import Builder
from lazyneuron.exporters.plan import Choice

__all__ = ["DOMAIN", "SparseGraph", "rewrite"]

DOMAIN, DOMAIN_VERSION = "lazyneuron", 1


@dataclass(frozen=True, slots=True)
class SparseGraph:
    """A graph with sparse operators.

    Attributes
    ----------
    model
        The graph; its first outputs are the dense one's, then come the counts.
    active_outputs
        The name of each block's count output, in the order of the choices.
    budget_input
        The name of the per-request budget; None where no block takes it.
    """

    model: ir.Model
    active_outputs: tuple[str, ...]
    budget_input: str | None


def rewrite(
    dense: ir.Model, inputs: Sequence[InputSpec], choices: Mapping[str, Choice], *, use_masks: bool
) -> SparseGraph:
    """Return the sparse graph; the dense one stays as it is.

    Parameters
    ----------
    dense
        The graph in which `find_blocks` found the blocks.
    choices
        What is done to each, by the name of its output.
    use_masks
        Whether rows that a mask input calls padding get budget 0, so that they cost nothing and give zeros.
    """
    model = dense.clone()
    found = find_blocks(model).blocks
    writer = _Writer(
        model.graph, inputs, {found[key].name: choice for key, choice in choices.items()}, use_masks=use_masks
    )
    count = replace_blocks(model, {key: found[key] for key in choices}, writer.emit)
    assert count == len(choices), f"{count} of {len(choices)} blocks were replaced"
    names = writer.attach_counts([found[key] for key in choices])
    budget = BUDGET_INPUT if writer.budgets.used else None
    if budget is None:
        writer.budgets.remove()
    # torch leaves stack traces, with the exporting machine's paths, in the nodes.
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.TopologicalSortPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.NameFixPass(),
    )(model)
    return SparseGraph(model, names, budget)


class _Writer:
    """Builds the operators, storing each weight once."""

    def __init__(
        self, graph: ir.Graph, inputs: Sequence[InputSpec], choices: Mapping[str, Choice], *, use_masks: bool
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._choices = choices
        self._stored: dict[str, ir.Value] = {}
        self._active: dict[str, ir.Value] = {}
        self.budgets = RowBudgets(graph, inputs, use_masks=use_masks)

    def emit(self, op: Any, block: Block) -> ir.Value:  # noqa: ANN401 (onnxscript's builders have no types)
        """Build a block's operator and return what takes the place of the block's output."""
        choice = self._choices[block.name]
        pre = self._pre(op, block)
        operands = [
            pre,
            self._down(block),
            self._row(block, "up", block.up.bias),
            self._row(block, "down", block.down.bias),
        ]
        operands.append(self.budgets.rows_of(op, block, pre))
        while operands[-1] is None:
            operands.pop()
        y, active = op.SparseDown(
            *operands,
            activation=block.activation,
            top_k=choice.top_k,
            threshold=0.0,
            _domain=DOMAIN,
            _version=DOMAIN_VERSION,
            _outputs=2,
        )
        active.dtype = ir.DataType.INT32
        self._active[block.name] = active
        wanted = block.down.output.dtype
        result: ir.Value = y if wanted == ir.DataType.FLOAT else op.Cast(y, to=wanted)
        return result

    def attach_counts(self, blocks: Sequence[Block]) -> tuple[str, ...]:
        """Make each block's count an output of the graph, with the axes of the block's rows."""
        op = Builder(self._graph)
        names = []
        for i, block in enumerate(blocks):
            active = self._active[block.name]
            if block.flattened:
                active = op.Reshape(active, self.budgets.shape_of(op, block.rows))
            active.name = f"lazyneuron.active.{i}"
            active.dtype = ir.DataType.INT32
            active.shape = ir.Shape([n if isinstance(n, int) else ir.SymbolicDim(n) for n in block.rows])
            self._graph.outputs.append(active)
            names.append(active.name)
        return tuple(names)

    def _pre(self, op: Any, block: Block) -> ir.Value:  # noqa: ANN401
        """Carry the reshapes and casts after the activation over to what comes before it; they commute with it."""
        pre = block.up.product
        for node in block.layout:
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            if node.op_type != "Dropout":
                pre = getattr(op, node.op_type)(pre, *node.inputs[1:], **attributes)
                pre.dtype = node.outputs[0].dtype
        if pre.dtype != ir.DataType.FLOAT:
            pre = op.Cast(pre, to=ir.DataType.FLOAT)
        return pre

    def _down(self, block: Block) -> ir.Value:
        key = block.down.weight.key
        if key not in self._stored:
            values = block.down.weight.read()
            as_it_is = self._graph.initializers.get(key)
            stored = _smallest(values)
            if as_it_is is None or stored.dtype != values.dtype:
                as_it_is = self._store(f"lazyneuron.{key}.neuron_major", stored)
            self._stored[key] = as_it_is
        return self._stored[key]

    def _row(self, block: Block, which: str, values: NDArray[np.float32] | None) -> ir.Value | None:
        return None if values is None else self._store(f"lazyneuron.{block.name}.{which}_bias", values)

    def _store(self, name: str, values: NDArray[np.generic]) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(values), name=name)
        value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _smallest(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the values in float16 if that loses nothing, as with a checkpoint that was stored so."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(values.dtype), values) else values
