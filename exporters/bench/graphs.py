"""ONNX graphs of one MLP block each, dense and sparse, from a planted block.

All take x [rows, d_model] and give y; the sparse ones also `active` and, where it differs, `candidates`.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.exporters.bench.int8 import quantize
from lazyneuron.engine.planted import PlantedBlock

__all__ = ["certified", "dense", "down", "exact", "gate", "predictor", "to_int8"]

_Array = NDArray[np.generic]
_COUNTS = {"active": TensorProto.INT32, "candidates": TensorProto.INT32}


def dense(block: PlantedBlock, *, gated: bool = False) -> onnx.ModelProto:
    """Return MatMul, Add, Relu, MatMul; gated: relu(x · gate + bias) · (x · up) before the last."""
    first = "gate" if gated else "up"
    nodes = [
        helper.make_node("MatMul", ["x", first], ["product"]),
        helper.make_node("Add", ["product", "up_bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["active_values"]),
    ]
    hidden = "active_values"
    constants: dict[str, _Array] = {"up": block.up.T, "up_bias": block.up_bias, "down": block.down}
    if gated:
        # The gate has the planted density: the block's up projection becomes it.
        constants |= {"gate": block.up.T, "up": block.gate.T}
        nodes += [
            helper.make_node("MatMul", ["x", "up"], ["linear"]),
            helper.make_node("Mul", ["active_values", "linear"], ["hidden"]),
        ]
        hidden = "hidden"
    nodes.append(helper.make_node("MatMul", [hidden, "down"], ["y"]))
    return _model(nodes, constants, {"x": block.d_model}, {})


def down(block: PlantedBlock, weights: str = "float32") -> onnx.ModelProto:
    """Return SparseDown alone: its input is `pre` [rows, d_ff]."""
    node, constants = _sparse_down(block, weights)
    return _model([node], constants, {"pre": block.d_ff}, {"active": TensorProto.INT32})


def exact(block: PlantedBlock, weights: str = "float32") -> onnx.ModelProto:
    """Return SparseDown behind a float32 MatMul."""
    node, constants = _sparse_down(block, weights)
    up = helper.make_node("MatMul", ["x", "up"], ["pre"])
    return _model([up, node], constants | {"up": block.up.T}, {"x": block.d_model}, {"active": TensorProto.INT32})


def certified(block: PlantedBlock, weights: str = "float32", miss_probability: float = 0.0) -> onnx.ModelProto:
    """Return SparseMLP in mode certified."""
    attributes = {"mode": "certified", "miss_probability": miss_probability}
    node, constants = _sparse_mlp(block, block.up, weights, "", attributes)
    return _model([node], constants, {"x": block.d_model}, _COUNTS)


def predictor(
    block: PlantedBlock, weights: str = "float32", *, rank: int = 64, recall: float = 0.99
) -> onnx.ModelProto:
    """Return SparseMLP in mode predictor, behind the best linear predictor of a rank, as two MatMuls.

    Its threshold keeps a share `recall` of the active neurons. With int8 weights the MatMuls are dynamic int8, too.
    """
    leading = block.basis[: min(rank, block.d_model)]
    low = {"first": leading.T, "second": leading @ block.up.T}
    scores = block.rows @ low["first"] @ low["second"] + block.up_bias
    threshold = float(np.quantile(scores[block.pre + block.up_bias > 0], 1 - recall))
    attributes = {"mode": "predictor", "score_threshold": threshold}
    node, constants = _sparse_mlp(block, block.up, weights, "scores", attributes)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["low"]),
        helper.make_node("MatMul", ["low", "second"], ["unbiased"]),
        helper.make_node("Add", ["unbiased", "up_bias"], ["scores"]),
        node,
    ]
    model = _model(nodes, constants | low, {"x": block.d_model}, _COUNTS)
    return to_int8(model) if weights == "int8" else model


def gate(block: PlantedBlock, weights: str = "float32") -> onnx.ModelProto:
    """Return SparseMLP in mode gate, behind its dense float32 gate projection; the gate has the planted density."""
    node, constants = _sparse_mlp(block, block.gate, weights, "scores", {"mode": "gate"})
    node.input[3] = ""  # the bias is the gate's
    nodes = [
        helper.make_node("MatMul", ["x", "gate"], ["product"]),
        helper.make_node("Add", ["product", "up_bias"], ["scores"]),
        node,
    ]
    return _model(nodes, constants | {"gate": block.up.T}, {"x": block.d_model}, _COUNTS)


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise a model's MatMuls as ONNX Runtime does for dynamic int8."""
    with tempfile.TemporaryDirectory(prefix="lazyneuron-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        quantize(before, after)
        return onnx.load(after)


def _sparse_down(block: PlantedBlock, weights: str) -> tuple[onnx.NodeProto, dict[str, _Array]]:
    constants = {"up_bias": block.up_bias, **_stored("down", block.down, weights)}
    inputs = ["pre", "down", "up_bias", "", "", *(["down_scale"] if weights == "int8" else [])]
    node = helper.make_node("SparseDown", inputs, ["y", "active"], name="block", domain="lazyneuron")
    return node, constants


def _sparse_mlp(
    block: PlantedBlock, up: _Array, weights: str, scores: str, attributes: dict[str, Any]
) -> tuple[onnx.NodeProto, dict[str, _Array]]:
    constants = {"up_bias": block.up_bias, **_stored("up", up, weights), **_stored("down", block.down, weights)}
    scales = ["up_scale", "down_scale"] if weights == "int8" else []
    inputs = ["x", "up", "down", "up_bias", "", "", scores, "", *scales]
    outputs = ["y", *_COUNTS]
    node = helper.make_node(
        "SparseMLP", inputs, outputs, name="block", domain="lazyneuron", activation="relu", **attributes
    )
    return node, constants


def _stored(name: str, values: _Array, weights: str) -> dict[str, _Array]:
    """Return neuron-major weights in a type; int8 codes with each neuron's scale."""
    if weights != "int8":
        return {name: values.astype(weights)}
    scale = np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny) / 127
    return {name: np.rint(values / scale[:, None]).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, _Array], inputs: Mapping[str, int], counts: Mapping[str, int]
) -> onnx.ModelProto:
    outputs = {"y": TensorProto.FLOAT, **counts}
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", width]) for n, width in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)
