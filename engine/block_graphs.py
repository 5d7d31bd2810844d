"""ONNX models of one MLP block each, dense and sparse, from a planted block.

All take x [rows, d_model] and give y; the sparse ones also `active` and, where it differs, `candidates`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.onnx_writer import FLOAT16, FLOAT32, Array, Bfloat16, Node, as_bfloat16, write_model
from lazyneuron.engine.planted import PlantedBlock

__all__ = ["certified", "dense", "down", "exact", "gate", "predictor", "stored"]

_Constants = dict[str, Array | Bfloat16]
_DOWN_COUNTS = ("active",)
_MLP_COUNTS = ("active", "candidates")


def dense(block: PlantedBlock, weights: str = "float32", *, gated: bool = False) -> bytes:
    """Return MatMul, Add, Relu, MatMul; gated: relu(x · gate + bias) · (x · up) before the last.

    With float16 weights x, y and all between are float16, too.
    """
    first = "gate" if gated else "up"
    nodes = [
        Node("MatMul", ["x", first], ["product"]),
        Node("Add", ["product", "up_bias"], ["biased"]),
        Node("Relu", ["biased"], ["active_values"]),
    ]
    hidden = "active_values"
    constants: dict[str, NDArray[np.float32]] = {"up": block.up.T, "up_bias": block.up_bias, "down": block.down}
    if gated:
        # The gate has the planted density: the block's up projection becomes it.
        constants |= {"gate": block.up.T, "up": block.gate.T}
        nodes += [Node("MatMul", ["x", "up"], ["linear"]), Node("Mul", ["active_values", "linear"], ["hidden"])]
        hidden = "hidden"
    nodes.append(Node("MatMul", [hidden, "down"], ["y"]))
    return _model(nodes, {k: v.astype(weights) for k, v in constants.items()}, {"x": block.d_model}, (), weights)


def down(block: PlantedBlock, weights: str = "float32") -> bytes:
    """Return SparseDown alone: its input is `pre` [rows, d_ff]."""
    node, constants = _sparse_down(block, weights)
    return _model([node], constants, {"pre": block.d_ff}, _DOWN_COUNTS)


def exact(block: PlantedBlock, weights: str = "float32", *, products: str = "float32") -> bytes:
    """Return SparseDown behind a MatMul in the type `products`."""
    node, constants = _sparse_down(block, weights)
    nodes = [*_products(["up"], "pre", products), node]
    constants["up"] = block.up.T.astype(products)
    return _model(nodes, constants, {"x": block.d_model}, _DOWN_COUNTS)


def certified(block: PlantedBlock, weights: str = "float32", miss_probability: float = 0.0) -> bytes:
    """Return SparseMLP in mode certified."""
    attributes: dict[str, float | str] = {"mode": "certified", "miss_probability": miss_probability}
    node, constants = _sparse_mlp(block, block.up, weights, "", attributes)
    return _model([node], constants, {"x": block.d_model}, _MLP_COUNTS)


def predictor(
    block: PlantedBlock,
    weights: str = "float32",
    *,
    rank: int = 64,
    recall: float = 0.99,
    products: str = "float32",
) -> bytes:
    """Return SparseMLP in mode predictor, behind the best linear predictor of a rank, as two MatMuls.

    Its threshold keeps a share `recall` of the active neurons. The MatMuls are in the type `products`.
    """
    leading = block.basis[: min(rank, block.d_model)]
    low = {"first": leading.T, "second": leading @ block.up.T}
    scores = block.rows @ low["first"] @ low["second"] + block.up_bias
    threshold = float(np.quantile(scores[block.pre + block.up_bias > 0], 1 - recall))
    attributes: dict[str, float | str] = {"mode": "predictor", "score_threshold": threshold}
    node, constants = _sparse_mlp(block, block.up, weights, "scores", attributes)
    nodes = [*_products(list(low), "unbiased", products), Node("Add", ["unbiased", "up_bias"], ["scores"]), node]
    constants |= {name: values.astype(products) for name, values in low.items()}
    return _model(nodes, constants, {"x": block.d_model}, _MLP_COUNTS)


def gate(block: PlantedBlock, weights: str = "float32", *, products: str = "float32") -> bytes:
    """Return SparseMLP in mode gate, behind its dense gate projection in the type `products`.

    The gate has the planted density.
    """
    # The bias is the gate's.
    node, constants = _sparse_mlp(block, block.gate, weights, "scores", {"mode": "gate"}, bias="")
    nodes = [*_products(["gate"], "product", products), Node("Add", ["product", "up_bias"], ["scores"]), node]
    constants["gate"] = block.up.T.astype(products)
    return _model(nodes, constants, {"x": block.d_model}, _MLP_COUNTS)


def stored(name: str, values: NDArray[np.float32], weights: str) -> _Constants:
    """Return neuron-major weights in a type; int8 codes with each neuron's scale."""
    if weights == "bfloat16":
        return {name: as_bfloat16(values)}
    if weights != "int8":
        return {name: values.astype(weights)}
    scale = np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny) / 127
    return {name: np.rint(values / scale[:, None]).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}


def _products(weights: Sequence[str], result: str, kind: str) -> list[Node]:
    """Multiply x by one matrix after the other; in float16 with a Cast before and after."""
    half = kind == "float16"
    nodes, last = ([Node("Cast", ["x"], ["x_half"], attributes={"to": FLOAT16})], "x_half") if half else ([], "x")
    for name in weights:
        product = result if name == weights[-1] and not half else f"{name}_product"
        nodes.append(Node("MatMul", [last, name], [product]))
        last = product
    return [*nodes, Node("Cast", [last], [result], attributes={"to": FLOAT32})] if half else nodes


def _sparse_down(block: PlantedBlock, weights: str) -> tuple[Node, _Constants]:
    constants: _Constants = {"up_bias": block.up_bias, **stored("down", block.down, weights)}
    inputs = ["pre", "down", "up_bias", "", "", *(["down_scale"] if weights == "int8" else [])]
    return Node("SparseDown", inputs, ["y", *_DOWN_COUNTS], "lazyneuron"), constants


def _sparse_mlp(
    block: PlantedBlock,
    up: NDArray[np.float32],
    weights: str,
    scores: str,
    attributes: Mapping[str, float | str],
    bias: str = "up_bias",
) -> tuple[Node, _Constants]:
    constants: _Constants = {"up_bias": block.up_bias}
    constants |= stored("up", up, weights) | stored("down", block.down, weights)
    scales = ["up_scale", "down_scale"] if weights == "int8" else []
    inputs = ["x", "up", "down", bias, "", "", scores, "", *scales]
    node = Node("SparseMLP", inputs, ["y", *_MLP_COUNTS], "lazyneuron", {"activation": "relu", **attributes})
    return node, constants


def _model(
    nodes: Sequence[Node],
    constants: Mapping[str, Array | Bfloat16],
    inputs: Mapping[str, int],
    counts: Sequence[str],
    kind: str = "float32",
) -> bytes:
    given: dict[str, tuple[str, Sequence[int | str]]] = {k: (kind, ["rows", width]) for k, width in inputs.items()}
    outputs: dict[str, tuple[str, Sequence[int | str]]] = {"y": (kind, ["rows", "columns"])}
    outputs |= {name: ("int32", ["rows"]) for name in counts}
    return write_model(nodes, given, outputs, constants)
