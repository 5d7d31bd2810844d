import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.graphs import OUT, TOLERANCE, D, F, node
from tests.exporters.rewriting import assert_agrees

X = np.random.default_rng(1).standard_normal((7, D)).astype(np.float32)
FLAT = {
    "inputs": {"x": (TensorProto.FLOAT, ["batch", D])},
    "outputs": {"y": (TensorProto.FLOAT, ["batch", OUT])},
}


def gemm_nodes(up: dict | None = None, down: dict | None = None, c: str = " up_bias") -> list:
    return [
        node("Gemm", f"x up{c}", "pre", name="up", **(up or {})),
        node("Relu", "pre", "h"),
        node("Gemm", "h down down_bias", "y", name="down", **(down or {})),
    ]


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ({}, {}),
        ({"transB": 1}, {"transB": 1}),
        ({"alpha": 0.5, "beta": 2.0}, {}),
        ({"transB": 1, "alpha": -1.5}, {"alpha": 0.25, "beta": 0.0}),
    ],
    ids=str,
)
def test_attributes_are_folded(tmp_path, up, down):
    w = graphs.weights()
    for name, attributes in (("up", up), ("down", down)):
        if attributes.get("transB"):
            w[name] = np.ascontiguousarray(w[name].T)
    path = graphs.save(tmp_path / "m.onnx", gemm_nodes(up, down), w, **FLAT)
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    assert "Gemm" not in {n.op_type for n in onnx.load(sparse).graph.node}


@pytest.mark.parametrize("shape", [(1, F), (1,), ()])
def test_c_may_be_a_row_or_a_number(tmp_path, shape):
    w = graphs.weights()
    w["up_bias"] = w["up_bias"].reshape(shape) if np.prod(shape) == F else w["up_bias"][0].reshape(shape)
    path = graphs.save(tmp_path / "m.onnx", gemm_nodes(), w, **FLAT)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])


def test_without_c(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", gemm_nodes(c=""), graphs.weights(), **FLAT)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])


def test_a_weight_shared_by_two_gemms_is_stored_once(tmp_path):
    w = graphs.weights(out=D)
    w = {"up": np.ascontiguousarray(w["up"].T), "down": np.ascontiguousarray(w["down"].T)}
    nodes = []
    for i, (x, y) in enumerate([("x", "m"), ("m", "y")]):
        nodes += [
            node("Gemm", f"{x} up", f"p{i}", transB=1),
            node("Relu", f"p{i}", f"h{i}"),
            node("Gemm", f"h{i} down", y, transB=1),
        ]
    spec = FLAT | {"outputs": {"y": (TensorProto.FLOAT, ["batch", D])}}
    sparse = assert_agrees(
        graphs.save(tmp_path / "m.onnx", nodes, w, **spec), {"x": X}, tolerance=TOLERANCE[np.float32], blocks=2
    )
    assert sum(len(i.dims) == 2 for i in onnx.load(sparse).graph.initializer) == 2


def test_a_transposed_input_is_refused(tmp_path):
    inputs = {"x": (TensorProto.FLOAT, [D, "batch"])}
    path = graphs.save(tmp_path / "m.onnx", gemm_nodes({"transA": 1}), graphs.weights(), **(FLAT | {"inputs": inputs}))
    assert graphs.reasons(path) == ["its projection up is a Gemm with transA or with a C that is no constant row"]


def test_c_that_differs_by_row_is_refused(tmp_path):
    inputs = FLAT["inputs"] | {"c": (TensorProto.FLOAT, ["batch", F])}
    path = graphs.save(tmp_path / "m.onnx", gemm_nodes(c=" c"), graphs.weights(), **(FLAT | {"inputs": inputs}))
    assert graphs.reasons(path) == ["its projection up is a Gemm with transA or with a C that is no constant row"]
