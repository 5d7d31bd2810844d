import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.exporters import graphs
from tests.exporters.activations import CONSTANTS, OTHERS
from tests.exporters.graphs import OUT, TOLERANCE, D, F, node
from tests.exporters.rewriting import assert_agrees, rewrite_file

X = 3 * np.random.default_rng(1).standard_normal((3, 4, D)).astype(np.float32)


def save(path, form, **options):
    nodes = graphs.plain_nodes()
    nodes[2:3] = form
    return graphs.save(path / "m.onnx", nodes, graphs.weights() | CONSTANTS | options.pop("more", {}), **options)


@pytest.mark.parametrize("written", OTHERS)
def test_any_activation_is_found_and_stays_in_the_graph(tmp_path, written):
    name, form = OTHERS[written]
    path = save(tmp_path, form)
    sparse = assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert (block.name, block.activation, block.computed, block.signed) == ("enc.mlp", name, "identity", True)
    assert {n.op_type for n in form} <= {n.op_type for n in onnx.load(sparse).graph.node}


def test_its_zeros_are_skipped(tmp_path):
    path = save(tmp_path, OTHERS["relu6"][1])
    sparse, _, graph = rewrite_file(path)
    w = graphs.weights()
    active = np.sum(X @ w["up"] + w["up_bias"] > 0, axis=-1)
    np.testing.assert_array_equal(graphs.run(sparse, {"x": X})[graph.active_outputs[0]], active)


def test_values_used_elsewhere_do_not_matter(tmp_path):
    outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", OUT]), "h": (TensorProto.FLOAT, [None, None, F])}
    assert_agrees(save(tmp_path, OTHERS["elu"][1], outputs=outputs), {"x": X}, tolerance=TOLERANCE[np.float32])


def test_parameters_that_differ_by_neuron(tmp_path):
    slopes = np.random.default_rng(2).standard_normal(F).astype(np.float32)
    path = save(tmp_path, [node("PRelu", "pre slopes", "h")], more={"slopes": slopes})
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    assert [b.activation for b in graphs.read(path)[1].blocks.values()] == ["prelu"]


def test_two_projections_in_a_form_of_its_own(tmp_path):
    """The product of the up projection and the gate stands before the sigmoid's."""
    form = [
        node("MatMul", "x gate", "g"),
        node("Sigmoid", "g", "s"),
        node("Mul", "pre g", "a"),
        node("Mul", "a s", "h"),
    ]
    path = save(tmp_path, form, more={"gate": graphs.weights(3)["up"]})
    assert_agrees(path, {"x": X}, tolerance=TOLERANCE[np.float32])
    (block,) = graphs.read(path)[1].blocks.values()
    assert (block.activation, block.gate is not None) == ("silu", True)


@pytest.mark.parametrize(("op", "name"), [("Tanh", "tanh"), ("Sigmoid", "sigmoid"), ("Softplus", "softplus")])
def test_what_is_never_zero_is_refused(tmp_path, op, name):
    """As the head of a classifier is."""
    reasons = graphs.reasons(save(tmp_path, [node(op, "pre", "h")]))
    assert reasons == [f"its activation is {name}, which is never near zero"]


@pytest.mark.parametrize("straight", [node("Identity", "pre", "h"), node("Mul", "pre half", "h")], ids=str)
def test_what_does_not_bend_is_no_block(tmp_path, straight):
    assert graphs.reasons(save(tmp_path, [straight])) == []


def test_attention_is_no_block(tmp_path):
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
