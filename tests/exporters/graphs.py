"""Small ONNX graphs with blocks in them, and running them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.engine.session import operator_library
from lazyneuron.exporters.blocks import Ledger, find_blocks
from lazyneuron.exporters.sources import DenseModel, read_checkpoint

D, F, OUT = 6, 20, 5
TOLERANCE = {np.float32: 1e-5, np.float16: 4e-3}
"""The largest error that the order of sums explains, relative to the largest output, for values of about 1."""

Node = onnx.NodeProto


def node(op: str, inputs: str, outputs: str, **attributes) -> Node:
    """A node; names are separated by spaces, and `_` is an input left out."""
    return helper.make_node(op, [n if n != "_" else "" for n in inputs.split()], outputs.split(), **attributes)


def weights(seed: int = 0, dtype=np.float32, d: int = D, f: int = F, out: int = OUT) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"up": (d, f), "up_bias": (f,), "down": (f, out), "down_bias": (out,)}
    return {name: (rng.standard_normal(shape) * 0.3).astype(dtype) for name, shape in shapes.items()}


def save(
    path: Path,
    nodes: list[Node],
    constants: dict[str, np.ndarray],
    *,
    inputs: dict[str, tuple[int, list]] | None = None,
    outputs: dict[str, tuple[int, list]] | None = None,
    opset: int = 18,
) -> Path:
    """Write a graph; by default x [batch, sequence, D] to y [batch, sequence, OUT], float32."""
    inputs = inputs or {"x": (TensorProto.FLOAT, ["batch", "sequence", D])}
    outputs = outputs or {"y": (TensorProto.FLOAT, ["batch", "sequence", OUT])}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, *spec) for n, spec in inputs.items()],
        [helper.make_tensor_value_info(n, *spec) for n, spec in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.save(model, path)
    return path


def plain_nodes(activation: Node | None = None) -> list[Node]:
    """MatMul, Add, an activation (Relu), MatMul, Add."""
    return [
        node("MatMul", "x up", "product", name="enc/mlp/up/MatMul"),
        node("Add", "product up_bias", "pre"),
        activation or node("Relu", "pre", "h"),
        node("MatMul", "h down", "second", name="enc/mlp/down/MatMul"),
        node("Add", "second down_bias", "y"),
    ]


def read(path: Path) -> tuple[DenseModel, Ledger]:
    dense = read_checkpoint(str(path))
    return dense, find_blocks(dense.model)


def reasons(path: Path) -> list[str]:
    """Why what looks like a block in the file was not taken; there must be no block."""
    _, ledger = read(path)
    assert not ledger.blocks
    return [skipped.reason for skipped in ledger.skipped.values()]


def run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a file with ONNX Runtime's optimiser off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.register_custom_ops_library(str(operator_library()))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def assert_close(actual: np.ndarray, expected: np.ndarray, *, tolerance: float) -> None:
    """Compare relative to the largest expected entry."""
    scale = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()) / scale
    assert error <= tolerance, f"{error:.2e} of the largest entry"
