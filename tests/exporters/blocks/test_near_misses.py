"""What looks like a block and cannot be taken is named, with the reason."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from tests.exporters import graphs
from tests.exporters.graphs import OUT, D, F, node

QUANTISED = "its weights are quantised already; export the model from its float weights"
GEMM = "its projection {} is a Gemm with transA or with a C that is no constant row"
FLAT = {"x": (TensorProto.FLOAT, ["batch", D])}
FLAT_OUT = {"y": (TensorProto.FLOAT, ["batch", OUT])}
ACTIVATIONS = {
    "relu": [node("Relu", "pre", "h")],
    "silu": [node("Sigmoid", "pre", "s"), node("Mul", "pre s", "h")],
}


def with_activation(name: str) -> list:
    nodes = graphs.plain_nodes()
    nodes[2:3] = ACTIVATIONS[name]
    return nodes


class Samples(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._feeds = iter([{"x": rng.standard_normal((2, 3, D)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict | None:
        return next(self._feeds, None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestQuantised:
    def quantised(self, tmp_path, activation, quantise) -> list[str]:
        dense = graphs.save(tmp_path / "dense.onnx", with_activation(activation), graphs.weights(d=D, f=F))
        quantise(dense, tmp_path / "m.onnx")
        return graphs.reasons(tmp_path / "m.onnx")

    def test_dynamically(self, tmp_path, activation):
        assert self.quantised(tmp_path, activation, quantize_dynamic) == [QUANTISED]

    @pytest.mark.parametrize("form", list(QuantFormat))
    def test_statically(self, tmp_path, activation, form):
        def quantise(source, target) -> None:
            quantize_static(
                source,
                target,
                Samples(),
                quant_format=form,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul"],
            )

        assert self.quantised(tmp_path, activation, quantise) == [QUANTISED]

    def test_to_a_few_bits(self, tmp_path, activation):
        def quantise(source, target) -> None:
            quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=True)
            quantizer.process()
            quantizer.model.save_model_to_file(str(target))

        assert self.quantised(tmp_path, activation, quantise) == [QUANTISED]


class TestGemm:
    def test_a_down_projection_with_a_changing_c(self, tmp_path):
        nodes = [
            node("Gemm", "x up up_bias", "pre"),
            node("Relu", "pre", "h"),
            node("Gemm", "h down c", "y", name="down"),
        ]
        inputs = FLAT | {"c": (TensorProto.FLOAT, ["batch", OUT])}
        path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(), inputs=inputs, outputs=FLAT_OUT)
        assert graphs.reasons(path) == [GEMM.format("down")]

    def test_without_an_activation_it_is_not_named(self, tmp_path):
        inputs = FLAT | {"c": (TensorProto.FLOAT, ["batch", OUT])}
        nodes = [node("Gemm", "x up c", "y")]
        path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(f=OUT), inputs=inputs, outputs=FLAT_OUT)
        assert graphs.reasons(path) == []


def body(prefix: str) -> onnx.GraphProto:
    names = {name: f"{prefix}_{name}" for name in ("product", "pre", "h", "second", "y")}
    nodes = graphs.plain_nodes()
    for made in nodes:
        made.input[:] = [names.get(n, n) for n in made.input]
        made.output[:] = [names.get(n, n) for n in made.output]
    result = helper.make_tensor_value_info(f"{prefix}_y", TensorProto.FLOAT, ["batch", "sequence", OUT])
    return helper.make_graph(nodes, prefix, [], [result])


def test_bodies_of_if(tmp_path):
    """As in a decoder with a branch for its cache."""
    branches = {f"{which}_branch": body(which) for which in ("then", "else")}
    inputs = {"x": (TensorProto.FLOAT, ["batch", "sequence", D]), "first": (TensorProto.BOOL, [1])}
    nodes = [node("If", "first", "y", name="cached", **branches)]
    reasons = graphs.reasons(graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(), inputs=inputs))
    assert reasons == ["it is inside the body of If cached; only blocks of the main graph are taken"] * 2


def test_experts_chosen_by_row(tmp_path):
    rng = np.random.default_rng(0)
    stacks = {"ups": rng.standard_normal((3, D, F), np.float32), "downs": rng.standard_normal((3, F, OUT), np.float32)}
    nodes = [
        node("Gather", "ups expert", "up"),
        node("Gather", "downs expert", "down"),
        node("MatMul", "x up", "pre"),
        node("Relu", "pre", "h"),
        node("MatMul", "h down", "y"),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["batch", "sequence", D]), "expert": (TensorProto.INT64, ["batch"])}
    reasons = graphs.reasons(graphs.save(tmp_path / "m.onnx", nodes, stacks, inputs=inputs))
    assert reasons == ["its matrices are chosen from a stack for each row, as in a mixture of experts"]


def test_experts_in_one_node(tmp_path):
    rng = np.random.default_rng(0)
    stacks = {"ups": rng.standard_normal((3, D, F), np.float32), "downs": rng.standard_normal((3, F, D), np.float32)}
    nodes = [
        node("MatMul", "x router", "probabilities"),
        node(
            "MoE", "x probabilities ups _ downs", "y", domain="com.microsoft", k=1, activation_type="relu", name="moe"
        ),
    ]
    path = graphs.save(
        tmp_path / "m.onnx",
        nodes,
        stacks | {"router": rng.standard_normal((D, 3), np.float32)},
        inputs=FLAT,
        outputs={"y": (TensorProto.FLOAT, ["batch", D])},
    )
    assert graphs.reasons(path) == ["it is a mixture of experts in one node; a block needs a matrix of its own"]


def test_a_convolution_between_the_projections(tmp_path):
    w = graphs.weights() | {"kernel": np.ones((F, 1, 3), np.float32)}
    nodes = [
        node("MatMul", "x up", "product"),
        node("Transpose", "product", "turned", perm=[0, 2, 1]),
        node("Conv", "turned kernel", "mixed", group=F, pads=[1, 1]),
        node("Transpose", "mixed", "pre", perm=[0, 2, 1]),
        node("Relu", "pre", "h"),
        node("MatMul", "h down", "y"),
    ]
    reasons = graphs.reasons(graphs.save(tmp_path / "m.onnx", nodes, w))
    assert reasons == [
        "what stands between its projections is not taken: a convolution, or a product with something else"
    ]


def test_a_product_with_something_that_is_no_projection(tmp_path):
    nodes = graphs.plain_nodes(node("Relu", "pre", "r"))
    nodes.insert(3, node("Mul", "r keep", "h"))
    inputs = {
        "x": (TensorProto.FLOAT, ["batch", "sequence", D]),
        "keep": (TensorProto.FLOAT, ["batch", "sequence", F]),
    }
    reasons = graphs.reasons(graphs.save(tmp_path / "m.onnx", nodes, graphs.weights(), inputs=inputs))
    assert reasons == [
        "what stands between its projections is not taken: a convolution, or a product with something else"
    ]


def test_a_norm_over_a_residual_is_no_activation(tmp_path):
    """Where a sigmoid weighs what is added to a residual, all from there to the next product is elementwise."""
    nodes = [
        node("MatMul", "x first", "a"),
        node("Sigmoid", "a", "s"),
        node("Mul", "x s", "weighed"),
        node("Add", "x weighed", "r"),
        node("Pow", "r two", "squares"),
        node("ReduceMean", "squares last", "mean"),
        node("Sqrt", "mean", "rms"),
        node("Div", "r rms", "normed"),
        node("MatMul", "normed head", "y"),
    ]
    w = graphs.weights(f=D)
    constants = {"first": w["up"], "head": w["down"], "two": np.full((), 2, np.float32), "last": np.array([-1])}
    assert graphs.reasons(graphs.save(tmp_path / "m.onnx", nodes, constants)) == []


def test_names_come_from_both_ends(tmp_path):
    nodes = graphs.plain_nodes()
    nodes[3] = node("MatMul", "h real", "second", name="enc/mlp/down/MatMul")
    nodes.insert(0, node("DequantizeLinear", "down scale", "real"))
    w = graphs.weights() | {"down": np.ones((F, OUT), np.int8), "scale": np.full((), 0.1, np.float32)}
    _, ledger = graphs.read(graphs.save(tmp_path / "m.onnx", nodes, w))
    assert [(s.name, s.reason) for s in ledger.skipped.values()] == [("enc.mlp", QUANTISED)]
