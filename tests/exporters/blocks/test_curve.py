import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.activations import CONSTANTS, FORMS
from tests.exporters.graphs import OUT, TOLERANCE, D, F, node
from tests.exporters.rewriting import assert_agrees, rewrite_file

X = 3 * np.random.default_rng(1).standard_normal((3, 4, D)).astype(np.float32)


def curved(path, form, opset=18, **options):
    nodes = graphs.plain_nodes()
    nodes[2:3] = form
    return graphs.save(path / "m.onnx", nodes, graphs.weights() | CONSTANTS, opset=opset, **options)


@pytest.mark.parametrize("written", FORMS)
def test_every_form_is_taken_and_computed_by_the_operator(tmp_path, written):
    name, form, opset = FORMS[written]
    path = curved(tmp_path, form, opset)
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert (block.name, block.activation, block.computed) == ("enc.mlp", name, name)
    assert [n.op_type for n in onnx.load(sparse).graph.node if n.op_type != "Constant"][:1] == ["MatMul"]
    assert not {n.op_type for n in onnx.load(sparse).graph.node} & {n.op_type for n in form} - {"Mul", "Add"}


@pytest.mark.parametrize("written", ["gelu, erf of a quotient", "gelu_tanh, composed", "silu, composed"])
def test_top_k_keeps_the_largest_magnitudes(tmp_path, written):
    path = curved(tmp_path, FORMS[written][1])
    sparse, _, graph = rewrite_file(path, top_k=4)
    hidden = curved(tmp_path, FORMS[written][1], outputs={"h": (TensorProto.FLOAT, ["batch", "sequence", F])})
    values = graphs.run(hidden, {"x": X})["h"]
    kept = np.argsort(-np.abs(values), axis=-1, kind="stable")[..., :4]
    w = graphs.weights()
    masked = np.zeros_like(values)
    np.put_along_axis(masked, kept, np.take_along_axis(values, kept, -1), -1)
    actual = graphs.run(sparse, {"x": X})
    graphs.assert_close(actual["y"], masked @ w["down"] + w["down_bias"], tolerance=TOLERANCE[np.float32])
    assert (actual[graph.active_outputs[0]] == 4).all()


def test_half_precision_constants_are_recognised(tmp_path):
    """0.7071 and 0.0447 are off by 5e-4 in float16: the nearer of the two GELUs counts."""
    for written in ("gelu, half first", "gelu_tanh, composed"):
        name, form, _ = FORMS[written]
        nodes = graphs.plain_nodes()
        nodes[2:3] = form
        constants = {k: v.astype(np.float16) for k, v in (graphs.weights() | CONSTANTS).items()}
        path = graphs.save(
            tmp_path / "m.onnx",
            nodes,
            constants,
            inputs={"x": (TensorProto.FLOAT16, ["batch", "sequence", D])},
            outputs={"y": (TensorProto.FLOAT16, ["batch", "sequence", OUT])},
        )
        assert_agrees(path, {"x": X.astype(np.float16)}, tolerance=TOLERANCE[np.float16])
        assert [b.computed for b in graphs.read(path)[1].blocks.values()] == [name]


def test_squared_relu_can_be_certified(tmp_path):
    path = curved(tmp_path, FORMS["relu2, a product"][1])
    sparse, _, graph = rewrite_file(path, mode="certified")
    assert [n.op_type for n in onnx.load(sparse).graph.node if n.domain == "lazyneuron"] == ["SparseMLP"]
    graphs.assert_close(
        graphs.run(sparse, {"x": X})["y"], graphs.run(path, {"x": X})["y"], tolerance=TOLERANCE[np.float32]
    )
    assert graph.candidates_outputs != (None,)


def test_a_silu_is_not_certified(tmp_path):
    sparse, *_ = rewrite_file(curved(tmp_path, FORMS["silu, composed"][1]), mode="certified")
    assert [n.op_type for n in onnx.load(sparse).graph.node if n.domain == "lazyneuron"] == ["SparseDown"]


def test_reshapes_around_are_carried_over(tmp_path):
    nodes = [
        node("Reshape", "x flat_x", "x2"),
        node("Gemm", "x2 up up_bias", "z2"),
        node("Shape", "x", "shape"),
        node("Slice", "shape start stop", "leading"),
        node("Concat", "leading width", "wide", axis=0),
        node("Reshape", "z2 wide", "pre"),
        *FORMS["gelu_tanh, composed"][1],
        node("Reshape", "h flat_h", "h2"),
        node("Gemm", "h2 down down_bias", "y2"),
        node("Concat", "leading out", "narrow", axis=0),
        node("Reshape", "y2 narrow", "y"),
    ]
    numbers = {"flat_x": [-1, D], "flat_h": [-1, F], "start": [0], "stop": [2], "width": [F], "out": [OUT]}
    constants = graphs.weights() | CONSTANTS | {k: np.array(v, np.int64) for k, v in numbers.items()}
    assert_agrees(graphs.save(tmp_path / "m.onnx", nodes, constants), {"x": X}, tolerance=TOLERANCE[np.float32])


def test_what_is_used_elsewhere_is_refused(tmp_path):
    outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", OUT]), "s": (TensorProto.FLOAT, [None, None, F])}
    path = curved(tmp_path, FORMS["silu, composed"][1], outputs=outputs)
    assert graphs.reasons(path) == ["s, inside it, is an output of the model"]


def test_double_precision_is_refused(tmp_path):
    nodes = graphs.plain_nodes()
    nodes[2:3] = FORMS["silu, composed"][1]
    path = graphs.save(
        tmp_path / "m.onnx",
        nodes,
        graphs.weights(dtype=np.float64),
        inputs={"x": (TensorProto.DOUBLE, ["batch", "sequence", D])},
        outputs={"y": (TensorProto.DOUBLE, ["batch", "sequence", OUT])},
    )
    assert graphs.reasons(path) == ["its weights are DOUBLE; expected float32 or float16"]
