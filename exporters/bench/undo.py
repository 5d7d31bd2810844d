"""The dense graph of an artifact: each of our operators back to MatMul, activation, MatMul.

before: SparseDown(pre, down, up_bias, down_bias, budget) or SparseMLP(x, up, down, …)
after:  the dense float32 block, every neuron computed

What the operators leave out is put back: caps (top_k) and thresholds are gone, and so are a predictor's misses, the
budget and the counts. What was taken off the values as their centre is not, nor does the bias have it any more.
Weights stored in fewer bits are the float32 of what is stored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from lazyneuron.engine.artifact import MODEL_FILE, Manifest
from lazyneuron.engine.errors import ArtifactError, one_line
from lazyneuron.engine.onnx_locations import check_listed
from lazyneuron.exporters.build import Builder, const, initializer
from lazyneuron.exporters.rewrite import centre_of
from lazyneuron.exporters.sources.dense import DenseModel, Tokenizer

__all__ = ["dense_graph", "dense_model", "left_out"]

_DOMAIN = "lazyneuron"
_DOWN_INPUTS = ("pre", "down", "up_bias", "down_bias", "budget", "down_scale")
_SCALES = ("up_scale", "down_scale", "gate_scale")
_ROUNDED = 1e-6
"""The share of a sum of float32 that its rounding comes to, with room."""
_MLP_INPUTS = ("x", "up", "down", "up_bias", "down_bias", "budget", "scores", "gate", *_SCALES)


def dense_graph(folder: Path, manifest: Manifest) -> ir.Model:
    """Return the dense graph of the artifact in `folder`, with the manifest's inputs and outputs.

    Raises
    ------
    ArtifactError
        If the graph cannot be read or keeps weights in files that the manifest does not list, or an operator in it has
        weights that are no constants.
    """
    path = folder / MODEL_FILE
    check_listed(path, manifest.files)
    try:
        model = ir.load(path)
    except Exception as error:
        raise ArtifactError(f"{path}: not a readable ONNX file: {one_line(error, 200)}") from error
    graph = model.graph
    counts = {name for b in manifest.blocks for name in (b.active_output, b.candidates_output) if name is not None}
    for value in [v for v in graph.outputs if v.name in counts]:
        graph.outputs.remove(value)
    stored: dict[tuple[str, bool], ir.Value] = {}
    centres = frozenset(centre_of(block.name) for block in manifest.blocks if block.centred)
    for node in [n for n in graph if n.domain == _DOMAIN]:
        _replace(graph, node, stored, centres, path)
    # Nothing uses the operators now, nor the budgets and counts around them.
    ir.passes.Sequential(passes.TopologicalSortPass(), passes.RemoveUnusedNodesPass(), passes.NameFixPass())(model)
    _drop_input(graph, manifest.budget_input)
    model.opset_imports.pop(_DOMAIN, None)
    return model


def dense_model(folder: Path, manifest: Manifest) -> DenseModel:
    """Return the dense graph of the artifact in `folder`, with what its manifest knows of it.

    Raises
    ------
    ArtifactError
        If the graph cannot be read, or an operator in it has weights that are no constants.
    """
    tokenizer, spec = None, manifest.tokenizer
    if spec is not None:
        content = (folder / spec.file).read_text(encoding="utf-8")
        tokenizer = Tokenizer(content, spec.max_length, spec.truncate, spec.mask_token, spec.decoder_start)
    return DenseModel(
        model=dense_graph(folder, manifest),
        source=manifest.source,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        task=manifest.task,
        max_lengths=manifest.max_lengths,
        tokenizer=tokenizer,
        labels=manifest.labels,
        image=manifest.image,
        problem=manifest.problem,
    )


def left_out(manifest: Manifest) -> list[str]:
    """Say in sentences how the dense graph's outputs may differ from the artifact's, beside the order of sums."""
    notes = []
    if any(0 < block.top_k < block.d_ff for block in manifest.blocks):
        notes.append("The dense graph has no top-k: every active neuron counts in it.")
    if any(block.mode == "predictor" for block in manifest.blocks):
        notes.append("The dense graph has no predictors: neurons that they miss count in it.")
    if any(block.threshold > 0 for block in manifest.blocks):
        notes.append("The dense graph has no thresholds: small values count in it.")
    return notes


def _drop_input(graph: ir.Graph, name: str | None) -> None:
    if name is not None:
        for value in [v for v in graph.inputs if v.name == name]:
            graph.inputs.remove(value)
        if name in graph.initializers:
            del graph.initializers[name]


def _replace(
    graph: ir.Graph, node: ir.Node, stored: dict[tuple[str, bool], ir.Value], centres: frozenset[str], path: Path
) -> None:
    names = {"SparseDown": _DOWN_INPUTS, "SparseMLP": _MLP_INPUTS}.get(node.op_type)
    if names is None:
        raise ArtifactError(f"{path}: operator {node.op_type} of node {node.name} has no dense form that is known")
    values = dict(zip(names, node.inputs, strict=False))
    operands = _Operands(graph, Builder(graph), values, stored, f"{path}: node {node.name}")
    operands.put_back(centres)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    hidden = _hidden(operands, attributes, given=node.op_type == "SparseDown")
    y = operands.op.MatMul(hidden, operands.weight("down", transposed=False))
    y = operands.plus(y, "down_bias")
    old = node.outputs[0]
    name, y.shape, y.type = old.name, old.shape, old.type
    old.name = f"{name}.sparse"
    ir.convenience.replace_all_uses_with(old, y, replace_graph_outputs=True)
    y.name = name


@dataclass(frozen=True, slots=True)
class _Operands:
    """A node's inputs by their names in the operator."""

    graph: ir.Graph
    op: Builder
    values: dict[str, ir.Value | None]
    stored: dict[tuple[str, bool], ir.Value]
    where: str

    def weight(self, name: str, *, transposed: bool) -> ir.Value:
        """Return a neuron-major weight as a float32 constant, [F, ·] or transposed."""
        value = self.values[name]
        tensor = None if value is None else value.const_value
        if value is None or value.name is None or tensor is None:
            raise ArtifactError(f"{self.where}: input {name} is no constant, so its dense form is not known")
        key = (value.name, transposed)
        if key not in self.stored:
            weights = self._dequantized(name, tensor.numpy())
            # An initializer: quantisers look for those.
            stored = f"{value.name}.dense{'.T' if transposed else ''}"
            self.stored[key] = initializer(self.graph, stored, weights.T if transposed else weights)
        return self.stored[key]

    def _dequantized(self, name: str, codes: NDArray[np.generic]) -> NDArray[np.float32]:
        weights = codes.astype(np.float32)
        scale = self.values.get(f"{name}_scale")
        if scale is not None and scale.const_value is not None:
            weights = weights * scale.const_value.numpy().astype(np.float32)[:, None]
        return weights

    def put_back(self, centres: frozenset[str]) -> None:
        """Replace values less one of those centres by the values, and the bias by what it was without the centre."""
        pre, bias = self.values.get("pre"), self.values.get("down_bias")
        taken = None if pre is None else pre.producer()
        centre = taken.inputs[1] if taken is not None and taken.op_type == "Sub" else None
        if taken is None or centre is None or centre.name not in centres:
            return
        down = self.weight("down", transposed=False).const_value
        if down is None or centre.const_value is None or bias is None or bias.const_value is None:
            raise ArtifactError(f"{self.where}: its centre or bias is no constant, so its dense form is not known")
        share = centre.const_value.numpy().astype(np.float64) @ down.numpy().astype(np.float64)
        rest = bias.const_value.numpy().astype(np.float64) - share
        self.values["pre"] = taken.inputs[0]
        # A block without a bias leaves the rounding of the sum.
        none = float(np.abs(rest).max()) <= _ROUNDED * float(np.abs(share).max(initial=0.0))
        name = f"{bias.name}.dense"
        self.values["down_bias"] = None if none else initializer(self.graph, name, rest.astype(np.float32))

    def plus(self, value: ir.Value, name: str) -> ir.Value:
        bias = self.values.get(name)
        return value if bias is None else self.op.Add(value, bias)

    def project(self, name: str) -> ir.Value:
        projected: ir.Value = self.op.MatMul(self.values["x"], self.weight(name, transposed=True))
        return projected


def _hidden(operands: _Operands, attributes: dict[str, Any], *, given: bool) -> ir.Value:
    """Build the neurons' values, every one of them."""
    op, activate = operands.op, _ACTIVATIONS[attributes.get("activation", "relu")]
    if given:
        pre = operands.values["pre"]
        assert pre is not None
        return activate(op, operands.plus(pre, "up_bias"))
    linear = operands.plus(operands.project("up"), "up_bias")
    if attributes.get("mode") == "gate":
        scores = operands.values["scores"]
        assert scores is not None
        values: ir.Value = op.Mul(activate(op, scores), linear)
    elif operands.values.get("gate") is not None:
        values = op.Mul(activate(op, operands.project("gate")), linear)
    else:
        values = activate(op, linear)
    return values


def _relu(op: Any, x: ir.Value) -> ir.Value:  # noqa: ANN401 (a builder of any operator)
    made: ir.Value = op.Relu(x)
    return made


def _relu2(op: Any, x: ir.Value) -> ir.Value:  # noqa: ANN401
    positive = op.Relu(x)
    made: ir.Value = op.Mul(positive, positive)
    return made


def _gelu(op: Any, x: ir.Value) -> ir.Value:  # noqa: ANN401
    inner = op.Erf(op.Div(x, _number(op, math.sqrt(2))))
    made: ir.Value = op.Mul(op.Mul(x, op.Add(inner, _number(op, 1.0))), _number(op, 0.5))
    return made


def _gelu_tanh(op: Any, x: ir.Value) -> ir.Value:  # noqa: ANN401
    cubic = op.Mul(_number(op, 0.044715), op.Pow(x, _number(op, 3.0)))
    inner = op.Tanh(op.Mul(op.Add(x, cubic), _number(op, math.sqrt(2 / math.pi))))
    made: ir.Value = op.Mul(op.Mul(x, op.Add(inner, _number(op, 1.0))), _number(op, 0.5))
    return made


def _silu(op: Any, x: ir.Value) -> ir.Value:  # noqa: ANN401
    made: ir.Value = op.Mul(x, op.Sigmoid(x))
    return made


def _number(op: Any, value: float) -> ir.Value:  # noqa: ANN401
    return const(op, np.asarray(value, np.float32))


_ACTIVATIONS: dict[str, Callable[[Any, ir.Value], ir.Value]] = {
    "relu": _relu,
    "relu2": _relu2,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "identity": lambda _, x: x,
}
"""Those of the operators."""
