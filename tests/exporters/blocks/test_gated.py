import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.activations import CONSTANTS, FORMS, OTHERS
from tests.exporters.graphs import OUT, TOLERANCE, D, F, node
from tests.exporters.rewriting import assert_agrees, rewrite_file

X = 3 * np.random.default_rng(1).standard_normal((3, 4, D)).astype(np.float32)
RELU = [node("Relu", "pre", "h")]
ALL = (
    {"relu": ("relu", RELU)} | {k: v[:2] for k, v in FORMS.items() if v[2] < 20} | {"quick_gelu": OTHERS["quick_gelu"]}
)


def gated_nodes(form, *, biased: bool, swapped: bool = False) -> list:
    return [
        node("MatMul", "x gate", "score" if biased else "pre", name="mlp/gate/MatMul"),
        *([node("Add", "score gate_bias", "pre")] if biased else []),
        *form,
        node("MatMul", "x up", "u" if biased else "v", name="mlp/up/MatMul"),
        *([node("Add", "u up_bias", "v")] if biased else []),
        node("Mul", "v h" if swapped else "h v", "m"),
        node("MatMul", "m down", "second", name="mlp/down/MatMul"),
        node("Add", "second down_bias", "y"),
    ]


def constants():
    other = graphs.weights(3)
    return graphs.weights() | {"gate": other["up"], "gate_bias": other["up_bias"]} | CONSTANTS


def halves_nodes(split: list, form) -> list:
    return [
        node("MatMul", "x both", "p"),
        node("Add", "p both_bias", "q"),
        *split,
        *form,
        node("Mul", "h v", "m"),
        node("MatMul", "m down", "y"),
    ]


SPLITS = {
    "Split": [node("Split", "q", "pre v", axis=-1, num_outputs=2)],
    "Slice": [
        node("Slice", "q from0 to0 last", "pre"),
        node("Slice", "q to0 end last", "v"),
    ],
}


@pytest.mark.parametrize("written", ALL)
@pytest.mark.parametrize("biased", [True, False])
def test_every_activation(tmp_path, written, biased):
    name, form = ALL[written]
    path = graphs.save(tmp_path / "m.onnx", gated_nodes(form, biased=biased, swapped=biased), constants())
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert (block.name, block.activation, block.d_model, block.d_ff, block.d_out) == ("mlp", name, D, F, OUT)
    (operator,) = (n.op_type for n in onnx.load(sparse).graph.node if n.domain == "lazyneuron")
    assert operator == ("SparseMLP" if name in {"relu", "relu2"} else "SparseDown")


def test_the_gates_zeros_spare_both_other_projections(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", gated_nodes(RELU, biased=True), constants())
    sparse, _, graph = rewrite_file(path)
    w = constants()
    open_gates = np.sum(X @ w["gate"] + w["gate_bias"] > 0, axis=-1)
    actual = graphs.run(sparse, {"x": X})
    np.testing.assert_array_equal(actual[graph.candidates_outputs[0]], open_gates)
    np.testing.assert_array_equal(actual[graph.active_outputs[0]], open_gates)
    assert sum(n.op_type == "MatMul" for n in onnx.load(sparse).graph.node) == 1
    assert not {t.name for t in onnx.load(sparse).graph.initializer} & {"up"}, "the dense up projection stays"


@pytest.mark.parametrize("written", ["relu", "silu, composed"])
def test_top_k_keeps_the_largest_magnitudes(tmp_path, written):
    path = graphs.save(tmp_path / "m.onnx", gated_nodes(ALL[written][1], biased=True), constants())
    sparse, _, graph = rewrite_file(path, top_k=3)
    w = constants()
    gate = X @ w["gate"] + w["gate_bias"]
    activated = np.maximum(gate, 0) if written == "relu" else gate / (1 + np.exp(-gate))
    values = activated * (X @ w["up"] + w["up_bias"])
    dropped = np.argsort(-np.abs(values), axis=-1, kind="stable")[..., 3:]
    np.put_along_axis(values, dropped, 0, -1)
    actual = graphs.run(sparse, {"x": X})
    graphs.assert_close(actual["y"], values @ w["down"] + w["down_bias"], tolerance=TOLERANCE[np.float32])
    assert actual[graph.active_outputs[0]].max() == 3


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("written", ["relu", "silu, composed", "gelu, half first"])
def test_halves_of_one_projection(tmp_path, split, written):
    w = constants()
    both = {
        "both": np.concatenate([w["gate"], w["up"]], axis=1),
        "both_bias": np.concatenate([w["gate_bias"], w["up_bias"]]),
        "down": w["down"],
        **{k: np.array([v], np.int64) for k, v in {"from0": 0, "to0": F, "end": 2**62, "last": -1}.items()},
    }
    path = graphs.save(tmp_path / "m.onnx", halves_nodes(SPLITS[split], ALL[written][1]), both | CONSTANTS)
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert (block.activation, block.d_ff, block.gating) == (ALL[written][0], F, written == "relu")
    wide = [t.name for t in onnx.load(sparse).graph.initializer if t.dims[-1:] == [2 * F]]
    assert bool(wide) is not block.gating, "of a gate alone only its own half is computed"


def test_halves_as_the_up_projection_of_a_plain_block(tmp_path):
    """A layer that makes its queries and its neurons in one product."""
    w = constants()
    both = {"both": np.concatenate([w["gate"], w["up"]], axis=1), "both_bias": np.ones(2 * F, np.float32)}
    nodes = [
        node("MatMul", "x both", "p"),
        node("Add", "p both_bias", "q"),
        *SPLITS["Split"],
        node("Relu", "v", "h"),
        node("MatMul", "h down", "y"),
        node("ReduceSum", "pre", "total", keepdims=0),
    ]
    outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", OUT]), "total": (TensorProto.FLOAT, [])}
    path = graphs.save(tmp_path / "m.onnx", nodes, both | {"down": w["down"]}, outputs=outputs)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    certified, *_ = rewrite_file(path, mode="certified")
    graphs.assert_close(
        graphs.run(certified, {"x": X})["y"], graphs.run(path, {"x": X})["y"], tolerance=TOLERANCE[np.float32]
    )


def test_a_gate_of_another_input_is_not_spared(tmp_path):
    nodes = gated_nodes(RELU, biased=False)
    nodes[0] = node("MatMul", "z gate", "pre")
    inputs = {name: (TensorProto.FLOAT, ["batch", "sequence", D]) for name in ("x", "z")}
    path = graphs.save(tmp_path / "m.onnx", nodes, constants(), inputs=inputs)
    assert_agrees(path, {"x": X, "z": X[::-1].copy()}, tolerance=TOLERANCE[np.float32])
    assert [b.computed for b in graphs.read(path)[1].blocks.values()] == ["identity"]


def test_a_gate_that_is_used_elsewhere_stays(tmp_path):
    outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", OUT]), "h": (TensorProto.FLOAT, [None, None, F])}
    path = graphs.save(tmp_path / "m.onnx", gated_nodes(RELU, biased=False), constants(), outputs=outputs)
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])


def test_a_gate_of_another_width_is_refused(tmp_path):
    narrow = constants() | {"gate": constants()["gate"][:, :1]}
    path = graphs.save(tmp_path / "m.onnx", gated_nodes(RELU, biased=False), narrow)
    assert graphs.reasons(path) == [f"its up projection gives 1 neurons and its down projection takes {F}"]
