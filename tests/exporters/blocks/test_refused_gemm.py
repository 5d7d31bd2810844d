from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.graphs import OUT, D, node


def test_a_down_projection_with_a_changing_c_is_named(tmp_path):
    nodes = [
        node("Gemm", "x up up_bias", "pre"),
        node("Relu", "pre", "h"),
        node("Gemm", "h down c", "y", name="down"),
    ]
    path = graphs.save(
        tmp_path / "m.onnx",
        nodes,
        graphs.weights(),
        inputs={"x": (TensorProto.FLOAT, ["batch", D]), "c": (TensorProto.FLOAT, ["batch", OUT])},
        outputs={"y": (TensorProto.FLOAT, ["batch", OUT])},
    )
    assert graphs.reasons(path) == ["its projection down is a Gemm with transA or with a C that is no constant row"]


def test_a_gemm_without_an_activation_before_is_not_named(tmp_path):
    path = graphs.save(
        tmp_path / "m.onnx",
        [node("Gemm", "x up c", "y")],
        graphs.weights(f=OUT),
        inputs={"x": (TensorProto.FLOAT, ["batch", D]), "c": (TensorProto.FLOAT, ["batch", OUT])},
        outputs={"y": (TensorProto.FLOAT, ["batch", OUT])},
    )
    assert graphs.reasons(path) == []
