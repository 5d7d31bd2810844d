"""The dense graph to the sparse one: each chosen block becomes the operator `SparseDown` or `SparseMLP`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from lazyneuron.engine.artifact import InputSpec
from lazyneuron.exporters.blocks import Block, find_blocks, replace_blocks
from lazyneuron.exporters.blocks.block import Projection
from lazyneuron.exporters.budgets import BUDGET_INPUT, RowBudgets
from lazyneuron.exporters.build import Builder, initializer, lazy_tensor
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.predictors.predictor import Predictor

__all__ = ["DOMAIN", "SparseGraph", "centre_of", "rewrite"]

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
    candidates_outputs
        Likewise of the neurons whose up projection was computed; None where all are.
    budget_input
        The name of the per-request budget; None where no block takes it.
    """

    model: ir.Model
    active_outputs: tuple[str, ...]
    candidates_outputs: tuple[str | None, ...]
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
    blocks = [found[key] for key in choices]
    active = writer.attach_counts("active", blocks)
    candidates = writer.attach_counts("candidates", blocks)
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
    return SparseGraph(model, tuple(n for n in active if n is not None), candidates, budget)


def centre_of(block: str) -> str:
    """Return the name of the constant that is taken off a block's values."""
    return f"lazyneuron.{block}.centre"


class _Writer:
    """Builds the operators, storing each weight once."""

    def __init__(
        self, graph: ir.Graph, inputs: Sequence[InputSpec], choices: Mapping[str, Choice], *, use_masks: bool
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._choices = choices
        self._stored: dict[str, ir.Value] = {}
        self._counts: dict[tuple[str, str], ir.Value] = {}
        self.budgets = RowBudgets(graph, inputs, use_masks=use_masks)

    def emit(self, op: Any, block: Block) -> ir.Value:  # noqa: ANN401 (onnxscript's builders have no types)
        """Build a block's operator and return what takes the place of the block's output."""
        choice = self._choices[block.name]
        gating = {"activation": choice.computed, "top_k": choice.top_k, "threshold": choice.threshold}
        builds = {"certified": self._certified, "predictor": self._predicted, "gate": self._gate}
        build = builds.get(choice.mode, self._sparse_down)
        y, active, *candidates = build(op, block, choice, gating)
        self._counts["active", block.name] = active
        if candidates:
            self._counts["candidates", block.name] = candidates[0]
        wanted = block.down.output.dtype
        result: ir.Value = y if wanted == ir.DataType.FLOAT else op.Cast(y, to=wanted)
        return result

    def _sparse_down(self, op: Any, block: Block, choice: Choice, gating: dict[str, Any]) -> list[ir.Value]:  # noqa: ANN401
        if choice.centre is not None:
            return self._centred(op, block, choice.centre, gating)
        if block.computed == "identity":
            pre, up_bias = self._float(op, block.hidden), None
        else:
            pre, up_bias = self._pre(op, block), None if block.up.part else self._bias(block, "up", block.up)
        down_bias = self._bias(block, "down", block.down)
        operands = [pre, self._down(block), up_bias, down_bias, self.budgets.rows_of(op, block, pre)]
        return _operator(op.SparseDown, operands, 2, gating)

    def _centred(self, op: Any, block: Block, centre: NDArray[np.float32], gating: dict[str, Any]) -> list[ir.Value]:  # noqa: ANN401
        """Take the centre off the neurons' values, and put what it comes to in the output into the bias."""
        pre = op.Sub(self._float(op, block.hidden), self._store(centre_of(block.name), centre))
        bias = centre.astype(np.float64) @ block.down.weight.read().astype(np.float64)
        if block.down.bias is not None:
            bias += block.down.bias
        bias_of = self._part(block, "centred_bias", bias.astype(np.float32))
        operands = [pre, self._down(block), None, bias_of, self.budgets.rows_of(op, block, pre)]
        return _operator(op.SparseDown, operands, 2, gating)

    def _certified(self, op: Any, block: Block, choice: Choice, gating: dict[str, Any]) -> list[ir.Value]:  # noqa: ANN401
        screen = choice.screen
        assert screen is not None
        absent = [None] * 5  # scores, gate and the scales of int8 weights
        shift, scale = self._part(block, "screen_shift", screen.shift), self._part(block, "screen_scale", screen.scale)
        operands = [*self._whole(op, block), *absent, shift, scale]
        return _operator(op.SparseMLP, operands, 3, {"mode": "certified", **gating})

    def _predicted(self, op: Any, block: Block, choice: Choice, gating: dict[str, Any]) -> list[ir.Value]:  # noqa: ANN401
        predictor = choice.predictor
        assert predictor is not None
        x, *others = self._whole(op, block)
        operands = [x, *others, self._scores(op, block, predictor, x)]
        attributes = {"mode": "predictor", "score_threshold": predictor.threshold, **gating}
        return _operator(op.SparseMLP, operands, 3, attributes)

    def _scores(self, op: Any, block: Block, predictor: Predictor, x: ir.Value | None) -> ir.Value:  # noqa: ANN401
        """Build a predictor: two thin MatMuls, which ONNX Runtime's own GEMM does."""
        parts = {"first": predictor.first, "second": predictor.second, "offset": predictor.offset}
        first, second, offset = (self._part(block, f"predictor_{name}", part) for name, part in parts.items())
        scores: ir.Value = op.Add(op.MatMul(op.MatMul(x, first), second), offset)
        return scores

    def _gate(self, op: Any, block: Block, _: Choice, gating: dict[str, Any]) -> list[ir.Value]:  # noqa: ANN401
        gate = block.gate
        assert gate is not None
        scores = gate.output
        if gate.part:  # alone, so that the other part need not be computed
            matrix = self._store(f"lazyneuron.{block.name}.gate", gate.weight.read())
            scores = op.MatMul(gate.x, matrix)
            if gate.bias is not None:
                bias = gate.bias.astype(gate.weight.read().dtype)
                scores = op.Add(scores, self._store(f"lazyneuron.{block.name}.gate_bias", bias))
            scores.dtype = gate.output.dtype
        operands = [*self._whole(op, block), self._float(op, scores)]
        return _operator(op.SparseMLP, operands, 3, {"mode": "gate", **gating})

    def _whole(self, op: Any, block: Block) -> list[ir.Value | None]:  # noqa: ANN401
        """Return SparseMLP's operands up to the budget."""
        x = self._float(op, block.up.x)
        biases = [self._bias(block, "up", block.up), self._bias(block, "down", block.down)]
        return [x, self._up(block), self._down(block), *biases, self.budgets.rows_of(op, block, x)]

    def attach_counts(self, which: str, blocks: Sequence[Block]) -> tuple[str | None, ...]:
        """Make each block's count of that name an output of the graph, with the axes of the block's rows."""
        op = Builder(self._graph)
        names: list[str | None] = []
        for i, block in enumerate(blocks):
            count = self._counts.get((which, block.name))
            if count is None:
                names.append(None)
                continue
            if block.flattened:
                count = op.Reshape(count, self.budgets.shape_of(op, block.rows))
            count.name = f"lazyneuron.{which}.{i}"
            count.dtype = ir.DataType.INT32
            count.shape = ir.Shape([n if isinstance(n, int) else ir.SymbolicDim(n) for n in block.rows])
            self._graph.outputs.append(count)
            names.append(count.name)
        return tuple(names)

    def _pre(self, op: Any, block: Block) -> ir.Value:  # noqa: ANN401
        """Carry the reshapes and casts after the activation over to what comes before it; they commute with it."""
        pre = block.up.product
        for node in block.layout:
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            if node.op_type != "Dropout":
                pre = getattr(op, node.op_type)(pre, *node.inputs[1:], **attributes)
                pre.dtype = node.outputs[0].dtype
        return self._float(op, pre)

    def _float(self, op: Any, value: ir.Value) -> ir.Value:  # noqa: ANN401
        if value.dtype == ir.DataType.FLOAT:
            return value
        cast: ir.Value = op.Cast(value, to=ir.DataType.FLOAT)
        return cast

    def _up(self, block: Block) -> ir.Value:
        key = f"{block.up.weight.key}.T"
        if key not in self._stored:
            self._stored[key] = self._stored_lazily(key, lambda: _smallest(block.up.weight.read().T))
        return self._stored[key]

    def _down(self, block: Block) -> ir.Value:
        key = block.down.weight.key
        if key not in self._stored:
            values = block.down.weight.read()
            as_it_is = self._graph.initializers.get(key)
            if as_it_is is None or _smallest(values).dtype != values.dtype:
                as_it_is = self._stored_lazily(key, lambda: _smallest(block.down.weight.read()))
            self._stored[key] = as_it_is
        return self._stored[key]

    def _bias(self, block: Block, which: str, projection: Projection) -> ir.Value | None:
        return self._part(block, f"{which}_bias", projection.bias)

    def _part(self, block: Block, which: str, values: NDArray[np.float32] | None) -> ir.Value | None:
        return None if values is None else self._store(f"lazyneuron.{block.name}.{which}", values)

    def _stored_lazily(self, key: str, make: Callable[[], NDArray[np.generic]]) -> ir.Value:
        name = f"lazyneuron.{key}.neuron_major"
        return initializer(self._graph, name, lazy_tensor(make, name))

    def _store(self, name: str, values: NDArray[np.generic]) -> ir.Value:
        return initializer(self._graph, name, values)


def _operator(build: Any, operands: list[ir.Value | None], outputs: int, attributes: dict[str, Any]) -> list[ir.Value]:  # noqa: ANN401
    """Add a node of ours; operands that are left out at the end are not named."""
    while operands[-1] is None:
        operands.pop()
    made: list[ir.Value] = build(*operands, **attributes, _domain=DOMAIN, _version=DOMAIN_VERSION, _outputs=outputs)
    for count in made[1:]:
        count.dtype = ir.DataType.INT32
    return made


def _smallest(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the values in float16 if that loses nothing, as with a checkpoint that was stored so."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(values.dtype), values) else values
