import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.graphs import OUT, TOLERANCE, D, node
from tests.exporters.rewriting import assert_agrees

X = 3 * np.random.default_rng(1).standard_normal((3, 4, D)).astype(np.float32)
FLAT = {
    "inputs": {"x": (TensorProto.FLOAT, ["batch", D])},
    "outputs": {"y": (TensorProto.FLOAT, ["batch", OUT])},
}


def fused(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return node(op, inputs, output, domain="com.microsoft", **attributes)


def activations(path) -> list[str]:
    return [block.activation for block in graphs.read(path)[1].blocks.values()]


@pytest.mark.parametrize(("op", "name"), [("BiasGelu", "gelu"), ("FastGelu", "gelu_tanh")])
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_the_bias_of_a_fused_gelu_becomes_the_blocks(tmp_path, op, name, opset):
    nodes = [
        node("MatMul", "x up", "product"),
        fused(op, "product up_bias", "h"),
        node("MatMul", "h down", "second"),
        node("Add", "second down_bias", "y"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(), opset=opset)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert (block.activation, block.computed) == (name, name)
    np.testing.assert_array_equal(block.up.bias, graphs.weights()["up_bias"])


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.25}, {"transB": 1, "alpha": -2.0}], ids=str)
def test_a_fused_product(tmp_path, attributes):
    w = graphs.weights()
    if attributes.get("transB"):
        w["down"] = np.ascontiguousarray(w["down"].T)
    nodes = graphs.plain_nodes()
    nodes[3] = fused("FusedMatMul", "h down", "second", **attributes)
    assert_agrees(graphs.save(tmp_path / "m.onnx", nodes, w), {"x": X}, tolerance=TOLERANCE[np.float32])


@pytest.mark.parametrize("attributes", [{}, {"transB": 1, "alpha": 0.5, "beta": 3.0}], ids=str)
def test_a_fused_gemm(tmp_path, attributes):
    w = graphs.weights()
    if attributes:
        w["up"] = np.ascontiguousarray(w["up"].T)
    nodes = [
        fused("FusedGemm", "x up up_bias", "h", activation="Relu", **attributes),
        node("Gemm", "h down down_bias", "y"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, w, **FLAT)
    assert_agrees(path, {"x": X[0]}, tolerance=TOLERANCE[np.float32])
    assert activations(path) == ["relu"]


def test_a_fused_gemm_with_an_activation_that_has_parameters_stays(tmp_path):
    nodes = [
        fused("FusedGemm", "x up up_bias", "h", activation="LeakyRelu", activation_alpha=0.1),
        node("Gemm", "h down down_bias", "y"),
    ]
    assert activations(graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(), **FLAT)) == []


def test_a_fused_product_with_a_transposed_input_stays(tmp_path):
    nodes = graphs.plain_nodes()
    nodes[0] = fused("FusedMatMul", "x up", "product", transA=1)
    path = graphs.save(
        tmp_path / "m.onnx",
        nodes,
        graphs.weights(),
        inputs={"x": (TensorProto.FLOAT, ["batch", D, "sequence"])},
        outputs={"y": (TensorProto.FLOAT, [None, None, OUT])},
    )
    assert activations(path) == []


def test_shapes_are_known_behind_operators_of_the_runtime(tmp_path):
    """ONNX's own inference stops at them, and so would the names of the rows' axes."""
    nodes = [
        fused("SkipLayerNormalization", "x x scale shift", "n"),
        node("MatMul", "n up", "product"),
        fused("BiasGelu", "product up_bias", "h"),
        node("MatMul", "h down", "second"),
        node("Add", "second down_bias", "y"),
    ]
    more = {"scale": np.ones(D, np.float32), "shift": np.zeros(D, np.float32)}
    path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights() | more)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert block.rows == ("batch", "sequence")
