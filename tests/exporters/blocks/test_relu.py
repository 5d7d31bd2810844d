import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.graphs import OUT, TOLERANCE, D, F, node
from tests.exporters.rewriting import assert_agrees, rewrite_file

X = np.random.default_rng(1).standard_normal((3, 4, D)).astype(np.float32)


def test_fires_and_keeps_the_up_projection(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    sparse, ledger, _ = rewrite_file(path)
    (block,) = ledger.blocks.values()
    assert (block.name, block.activation) == ("enc.mlp", "relu")
    assert (block.d_model, block.d_ff, block.d_out) == (D, F, OUT)
    assert block.rows == ("batch", "sequence")
    ops = [n.op_type for n in onnx.load(sparse).graph.node]
    assert ops.count("MatMul") == 1
    assert "Relu" not in ops
    assert "Add" not in ops


def test_agrees_with_dense(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    w = graphs.weights()
    active = np.sum(X @ w["up"] + w["up_bias"] > 0, axis=-1)
    np.testing.assert_array_equal(graphs.run(sparse, {"x": X})["lazyneuron.active.0"], active)


@pytest.mark.parametrize(
    "activation",
    [
        node("Relu", "pre", "h"),
        node("Max", "pre zero", "h"),
        node("Max", "zero pre", "h"),
        node("Clip", "pre zero", "h"),
    ],
    ids=lambda n: f"{n.op_type}({', '.join(n.input)})",
)
def test_all_ways_to_write_relu(tmp_path, activation):
    constants = {**graphs.weights(), "zero": np.zeros((), np.float32)}
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(activation), constants)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])


@pytest.mark.parametrize("up_bias", [True, False])
@pytest.mark.parametrize("down_bias", [True, False])
def test_biases_are_optional(tmp_path, up_bias, down_bias):
    nodes = [
        node("MatMul", "x up", "product"),
        *([node("Add", "up_bias product", "pre")] if up_bias else []),
        node("Relu", "pre" if up_bias else "product", "h"),
        node("MatMul", "h down", "second" if down_bias else "y"),
        *([node("Add", "down_bias second", "y")] if down_bias else []),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights())
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])


def test_reshapes_between_are_carried_over(tmp_path):
    nodes = [
        node("MatMul", "x up", "product"),
        node("Add", "product up_bias", "pre"),
        node("Relu", "pre", "h"),
        node("Reshape", "h flat", "h2"),
        node("Identity", "h2", "h3"),
        node("MatMul", "h3 down", "second"),
        node("Add", "second down_bias", "y2"),
        node("Shape", "x", "shape"),
        node("Slice", "shape start stop", "leading"),
        node("Concat", "leading width", "target", axis=0),
        node("Reshape", "y2 target", "y"),
    ]
    numbers = {"flat": [-1, F], "start": [0], "stop": [2], "width": [OUT]}
    constants = graphs.weights() | {k: np.array(v, np.int64) for k, v in numbers.items()}
    assert_agrees(graphs.save(tmp_path / "m.onnx", nodes, constants), {"x": X}, tolerance=TOLERANCE[np.float32])


def test_float16_activations_are_cast(tmp_path):
    path = graphs.save(
        tmp_path / "m.onnx",
        graphs.plain_nodes(),
        graphs.weights(dtype=np.float16),
        inputs={"x": (TensorProto.FLOAT16, ["batch", "sequence", D])},
        outputs={"y": (TensorProto.FLOAT16, ["batch", "sequence", OUT])},
    )
    sparse = assert_agrees(path, {"x": X.astype(np.float16)}, tolerance=TOLERANCE[np.float16])
    stored = {i.name: i.data_type for i in onnx.load(sparse).graph.initializer}
    assert TensorProto.FLOAT16 in stored.values()


def test_weights_shared_between_blocks_are_stored_once(tmp_path):
    w = graphs.weights(out=D)
    nodes = []
    for i, (x, y) in enumerate([("x", "m"), ("m", "y")]):
        nodes += [
            node("MatMul", f"{x} up", f"p{i}"),
            node("Relu", f"p{i}", f"h{i}"),
            node("MatMul", f"h{i} down", y),
        ]
    path = graphs.save(tmp_path / "m.onnx", nodes, w, outputs={"y": (TensorProto.FLOAT, ["batch", "sequence", D])})
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32], blocks=2)
    assert sum(i.dims[:] == [F, D] for i in onnx.load(sparse).graph.initializer) == 1


def test_transposed_weights(tmp_path):
    w = graphs.weights()
    w["down"] = np.ascontiguousarray(w["down"].T)
    nodes = graphs.plain_nodes()
    nodes[3] = node("MatMul", "h turned", "second")
    nodes.insert(0, node("Transpose", "down", "turned", perm=[1, 0]))
    assert_agrees(graphs.save(tmp_path / "m.onnx", nodes, w), {"x": X}, tolerance=TOLERANCE[np.float32])


class TestNearMisses:
    def test_activation_used_elsewhere(self, tmp_path):
        nodes = [*graphs.plain_nodes(), node("ReduceSum", "h", "total", name="sum_h")]
        outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", OUT]), "total": (TensorProto.FLOAT, [1, 1, 1])}
        path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(), outputs=outputs)
        assert graphs.reasons(path) == ["h, inside it, is also used by ReduceSum sum_h"]

    def test_pre_activation_is_an_output(self, tmp_path):
        outputs = {
            "y": (TensorProto.FLOAT, ["batch", "sequence", OUT]),
            "pre": (TensorProto.FLOAT, ["batch", "sequence", F]),
        }
        path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(), outputs=outputs)
        assert graphs.reasons(path) == ["pre, inside it, is an output of the model"]

    def test_double_precision(self, tmp_path):
        path = graphs.save(
            tmp_path / "m.onnx",
            graphs.plain_nodes(),
            graphs.weights(dtype=np.float64),
            inputs={"x": (TensorProto.DOUBLE, ["batch", "sequence", D])},
            outputs={"y": (TensorProto.DOUBLE, ["batch", "sequence", OUT])},
        )
        assert graphs.reasons(path) == ["its weights are DOUBLE; expected float32 or float16"]

    def test_quantised_weights(self, tmp_path):
        w = graphs.weights()
        w["down"] = np.ones((F, OUT), np.int8)
        w["scale"] = np.full((), 0.1, np.float32)
        nodes = graphs.plain_nodes()
        nodes[3] = node("MatMul", "h real", "second")
        nodes.insert(0, node("DequantizeLinear", "down scale", "real"))
        path = graphs.save(tmp_path / "m.onnx", nodes, w)
        assert graphs.reasons(path) == ["its weights are quantised already; export the model from its float weights"]

    def test_weights_that_are_computed_are_no_block(self, tmp_path):
        w = graphs.weights()
        del w["down"]
        inputs = {"x": (TensorProto.FLOAT, ["batch", "sequence", D]), "down": (TensorProto.FLOAT, [F, OUT])}
        path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), w, inputs=inputs)
        assert graphs.reasons(path) == []

    def test_a_convolution_before_is_no_block(self, tmp_path):
        nodes = [node("Softmax", "x", "s"), node("Relu", "s", "h"), node("MatMul", "h down", "y")]
        path = graphs.save(tmp_path / "m.onnx", nodes, {"down": graphs.weights(f=D)["down"]})
        assert graphs.reasons(path) == []
