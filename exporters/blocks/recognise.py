"""Telling an activation by what it computes, so that every way to write one is the same to us."""

import math
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lazyneuron.engine.artifact import Activation
from lazyneuron.exporters.blocks.walk import constant, of_layout

__all__ = ["operators_own", "recognise"]

_POINTS = np.concatenate([np.linspace(-12, 12, 2401), [-1e4, -100.0, -0.0, 100.0, 1e4]]).astype(np.float32)
_TOLERANCE = {ir.DataType.FLOAT: 2e-5, ir.DataType.FLOAT16: 1e-3}
"""Relative to max(1, the curve's value). Approximations of erf are off by 1e-6, constants in float16 by 5e-4; the two
forms of GELU differ by 5e-4, so that the nearest counts."""
_MOST_NODES = 16
_IR_VERSION = 10

_Points = NDArray[np.float64]


def _gelu(x: _Points) -> _Points:
    erf: _Points = np.asarray([math.erf(v) for v in (x / math.sqrt(2)).tolist()])
    return 0.5 * x * (1 + erf)


def _sigmoid(x: _Points) -> _Points:
    squashed: _Points = 1 / (1 + np.exp(np.minimum(-x, 700)))
    return squashed


_OWN: dict[str, Activation] = {name: name for name in get_args(Activation) if name != "identity"}
_KNOWN: dict[str, Callable[[_Points], _Points]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "gelu": _gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(np.minimum(x, 700)))),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
}


def operators_own(name: str | None) -> Activation | None:
    """Return an activation's name if the operators compute it."""
    return None if name is None else _OWN.get(name)


def recognise(nodes: Sequence[ir.Node], source: ir.Value, result: ir.Value) -> str | None:
    """Return the name of the activation that the nodes compute; None if none is known that does.

    They are run on points from -10,000 to 10,000. A constant among them may only be one number, since what differs
    by neuron is no part of an activation.

    Parameters
    ----------
    nodes
        Elementwise ones, in the graph's order, that compute `result` of `source` and of constants.
    """
    acting = [node for node in nodes if not of_layout(node)]
    model = _model(acting, source, result) if 0 < len(acting) <= _MOST_NODES else None
    if model is None:
        return None
    got = _run(model)
    if got is None:
        return None
    x = _POINTS.astype(np.float64)
    errors: dict[str, float] = {}
    for name, curve in _KNOWN.items():
        expected = curve(x)
        errors[name] = float(np.max(np.abs(got - expected) / np.maximum(1, np.abs(expected))))
    nearest = min(errors, key=lambda name: errors[name])
    return nearest if errors[nearest] <= _TOLERANCE.get(result.dtype or ir.DataType.FLOAT, 0.0) else None


def _model(nodes: Sequence[ir.Node], source: ir.Value, result: ir.Value) -> onnx.ModelProto | None:
    """Put the nodes into a graph from one vector to another, in float32; None if a constant is no number."""
    constants: dict[str, onnx.TensorProto] = {}
    names: dict[ir.Value, str] = {source: "x"}
    names |= {output: f"v{i}_{j}" for i, node in enumerate(nodes) for j, output in enumerate(node.outputs)}

    def name_of(value: ir.Value | None) -> str | None:
        while value is not None and value not in names:
            array = constant(value)
            if array is not None:
                if array.size != 1:
                    return None
                one = array.reshape(()).astype(np.float32) if array.dtype.kind == "f" else array.reshape(())
                names[value] = f"c{len(constants)}"
                constants[names[value]] = numpy_helper.from_array(one, names[value])
                break
            node = value.producer()
            if node is None or not of_layout(node):
                return None
            value = node.inputs[0]
        return "" if value is None else names[value]

    made = []
    for node in nodes:
        inputs = [name for value in node.inputs if (name := name_of(value)) is not None]
        if len(inputs) < len(node.inputs):
            return None
        made.append(ir.to_proto(node))
        del made[-1].input[:], made[-1].output[:], made[-1].metadata_props[:]
        made[-1].input.extend(inputs)
        made[-1].output.extend(names[output] for output in node.outputs)
    last = name_of(result)
    graph = nodes[0].graph
    if last is None or graph is None:
        return None
    points, values = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None]) for n in ("x", last))
    body = helper.make_graph(made, "curve", [points], [values], list(constants.values()))
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opset_imports.items()]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION)


def _run(model: onnx.ModelProto) -> _Points | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (values,) = session.run(None, {"x": _POINTS})
    except Exception:  # noqa: BLE001 (what cannot be run is none that we know)
        return None
    return np.asarray(values, np.float64) if values.shape == _POINTS.shape else None
