import numpy as np
import pytest

from tests.exporters import graphs
from tests.exporters.graphs import D, F, node

HALF, ROOT = np.full((), 0.5, np.float32), np.full((), 1.41421, np.float32)
ONE, CUBE = np.ones((), np.float32), np.full((), 0.044715, np.float32)

ERF = [
    node("Div", "pre root", "a"),
    node("Erf", "a", "b"),
    node("Add", "b one", "c"),
    node("Mul", "pre c", "d"),
    node("Mul", "d half", "h"),
]
TANH = [
    node("Mul", "pre pre", "a"),
    node("Mul", "a pre", "b"),
    node("Mul", "b cube", "c"),
    node("Add", "pre c", "d"),
    node("Tanh", "d", "e"),
    node("Add", "e one", "f"),
    node("Mul", "pre f", "g"),
    node("Mul", "g half", "h"),
]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (ERF, "gelu"),
        (TANH, "gelu_tanh"),
        ([node("Gelu", "pre", "h", domain="com.microsoft")], "gelu"),
        ([node("Sigmoid", "pre", "s"), node("Mul", "pre s", "h")], "silu"),
        ([node("Tanh", "pre", "h")], "tanh"),
        ([node("LeakyRelu", "pre", "h")], "leaky_relu"),
        ([node("Relu", "pre", "r"), node("Mul", "r r", "h")], "relu2"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_names_the_activation(tmp_path, activation, name):
    nodes = graphs.plain_nodes()
    nodes[2:3] = activation
    constants = graphs.weights() | {"half": HALF, "root": ROOT, "one": ONE, "cube": CUBE}
    path = graphs.save(tmp_path / "m.onnx", nodes, constants)
    assert graphs.reasons(path) == [f"activation {name} is not taken in this version; relu is"]
    (skipped,) = graphs.read(path)[1].skipped.values()
    assert skipped.name == "enc.mlp"


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ([node("Sigmoid", "pre", "s"), node("Mul", "pre s", "a")], "silu"),
        ([node("Relu", "pre", "a")], "relu"),
    ],
    ids=["silu", "relu"],
)
def test_names_gated_blocks(tmp_path, activation, name):
    nodes = graphs.plain_nodes()
    nodes[2:3] = [*activation, node("MatMul", "x gate", "other"), node("Mul", "a other", "h")]
    constants = graphs.weights() | {"gate": graphs.weights(3)["up"]}
    path = graphs.save(tmp_path / "m.onnx", nodes, constants)
    assert graphs.reasons(path) == [f"activation gated {name} is not taken in this version; relu is"]


def test_two_projections_without_an_activation_are_not_named(tmp_path):
    nodes = graphs.plain_nodes(node("Identity", "pre", "h"))
    assert graphs.reasons(graphs.save(tmp_path / "m.onnx", nodes, graphs.weights())) == []


def test_attention_is_not_named(tmp_path):
    nodes = [
        node("MatMul", "x up", "q"),
        node("Transpose", "q", "k", perm=[0, 2, 1]),
        node("MatMul", "q k", "scores"),
        node("Softmax", "scores", "p"),
        node("MatMul", "p q", "mixed"),
        node("MatMul", "mixed down", "y"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(d=D, f=F))
    assert graphs.reasons(path) == []
