"""Turns a graph's certified blocks into predictor blocks by hand: the best linear predictor of a rank, int8 weights.

The scores are W·P·Pᵀ·(x - mean) + W·mean + bias with the rows' leading principal directions P, as two plain MatMuls in
the graph; a block's threshold keeps 99 % of the neurons that were active on the calibration rows.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lazyneuron.engine.session import open_session
from lazyneuron.exporters.sessions import save

__all__ = ["add_predictors", "int8_weights", "store"]

RANK, RECALL = 64, 0.99
Array = np.ndarray

# Places in SparseMLP's inputs.
_X, _UP, _DOWN, _BIAS, _BUDGET, _SCORES, _UP_SCALE, _DOWN_SCALE = 0, 1, 2, 3, 5, 6, 8, 9


def int8_weights(weights: Array) -> tuple[Array, Array]:
    """Quantise each neuron's row; returns codes and scales."""
    weights = weights.astype(np.float32)
    scale = np.abs(weights).max(axis=1) / 127
    return np.rint(weights / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def add_predictors(model: ir.Model, path: Path, feed: Mapping[str, Array]) -> tuple[float, float]:
    """Change the model in place; return candidates over active neurons, and recall, as means over the blocks.

    Parameters
    ----------
    path
        The file that the model was read from.
    feed
        Inputs to calibrate on.
    """
    blocks = [node for node in model.graph if node.op_type == "SparseMLP"]
    rows = _rows(path, [node.inputs[_X].name for node in blocks], feed)
    measured = [_predict(model.graph, node, x) for node, x in zip(blocks, rows, strict=True)]
    passes.RemoveUnusedNodesPass()(model)  # the screens and the float weights
    candidates, recall = np.mean(measured, axis=0)
    return float(candidates), float(recall)


def _rows(path: Path, names: list[str], feed: Mapping[str, Array]) -> list[Array]:
    """Return values inside the graph, as rows."""
    model = ir.load(path)
    values = {v.name: v for node in model.graph for v in node.outputs}
    for name in names:
        values[name].dtype = ir.DataType.FLOAT
        model.graph.outputs.append(values[name])
    probe = path.with_name("probe.onnx")
    save(model, probe)
    results = open_session(probe).run(names, feed)
    for file in (probe, path.with_name("probe.onnx.data")):
        file.unlink(missing_ok=True)
    return [r.reshape(-1, r.shape[-1]) for r in results]


def _predict(graph: ir.Graph, node: ir.Node, x: Array) -> tuple[float, float]:
    up, down = (node.inputs[i].const_value.numpy().astype(np.float32) for i in (_UP, _DOWN))
    bias = np.zeros(len(up), np.float32) if node.inputs[_BIAS] is None else node.inputs[_BIAS].const_value.numpy()
    mean = x.mean(axis=0)
    centred = x - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    leading = np.ascontiguousarray(vectors[:, : -RANK - 1 : -1], np.float32)  # [D, RANK]
    constant = bias + up @ (mean - leading @ (leading.T @ mean))
    scores = x @ leading @ (leading.T @ up.T) + constant
    active = x @ up.T + bias > 0
    threshold = float(np.quantile(scores[active], 1 - RECALL))
    _replace(graph, node, leading, up, down, constant, threshold)
    kept = scores > threshold
    return float(kept.sum() / active.sum()), float((kept & active).sum() / active.sum())


def _replace(
    graph: ir.Graph, node: ir.Node, leading: Array, up: Array, down: Array, constant: Array, threshold: float
) -> None:
    name = node.outputs[0].name
    (up_codes, up_scale), (down_codes, down_scale) = int8_weights(up), int8_weights(down)
    stored = {
        key: store(graph, f"{name}.{key}", values)
        for key, values in {
            "first": leading,
            "second": leading.T @ up.T,
            "constant": constant,
            "up": up_codes,
            "up_scale": up_scale,
            "down": down_codes,
            "down_scale": down_scale,
        }.items()
    }
    low = ir.node("MatMul", [node.inputs[_X], stored["first"]])
    product = ir.node("MatMul", [low.outputs[0], stored["second"]])
    scores = ir.node("Add", [product.outputs[0], stored["constant"]])
    graph.insert_before(node, [low, product, scores])
    inputs = list(node.inputs[:_SCORES])  # the screen's shift and scale go
    inputs[_UP], inputs[_DOWN] = stored["up"], stored["down"]
    inputs += [scores.outputs[0], None, stored["up_scale"], stored["down_scale"]]
    attributes = {key: value for key, value in node.attributes.items() if key not in {"mode", "miss_probability"}}
    changed = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes=[
            *attributes.values(),
            ir.AttrString("mode", "predictor"),
            ir.AttrFloat32("score_threshold", threshold),
        ],
        num_outputs=len(node.outputs),
        name=node.name,
    )
    for old, new in zip(node.outputs, changed.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [changed], node.outputs, changed.outputs)


def store(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    """Add a constant to the graph."""
    tensor = ir.tensor(np.ascontiguousarray(values), name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
