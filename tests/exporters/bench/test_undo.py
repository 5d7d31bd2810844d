"""An artifact's operators become dense blocks again."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.engine.artifact import MODEL_FILE, read_manifest
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.session import open_session
from lazyneuron.exporters.bench.undo import dense_graph, left_out
from tests.exporters import graphs
from tests.exporters.rewriting import rewrite_file
from tests.exporters.test_calibration import masked  # noqa: F401 (a fixture)
from tests.support.artifacts import Size, write_text_classifier

D, F, OUT = 6, 20, 5
RNG = np.random.default_rng(3)
ACTIVATIONS = ("relu", "relu2", "gelu", "gelu_tanh", "silu", "identity")


def constants(weights: str) -> dict[str, np.ndarray]:
    shapes = {"up": (F, D), "gate": (F, D), "down": (F, OUT)}
    made = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    made |= {"up_bias": RNG.standard_normal(F).astype(np.float32), "down_bias": np.ones(OUT, np.float32)}
    if weights == "int8":
        for name in shapes:
            made[f"{name}_scale"] = (RNG.random(F) / 50).astype(np.float32)
            made[name] = RNG.integers(-127, 128, shapes[name]).astype(np.int8)
    elif weights == "float16":
        made |= {name: made[name].astype(np.float16) for name in shapes}
    return made


def write(folder, op: str, inputs: list[str], weights: str, x: tuple[str, int], counts: list[str], **attributes):
    """Write a one-node artifact, whose other inputs are what the node names beside x and the constants."""
    made = constants(weights)
    while inputs[-1] == "":
        inputs.pop()
    node = helper.make_node(op, inputs, ["y", *counts], domain="lazyneuron", **attributes)
    given = [(x[0], [None, x[1]])] + [("scores", [None, F])] * ("scores" in inputs)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, OUT])]
        + [helper.make_tensor_value_info(name, TensorProto.INT32, [None]) for name in counts],
        [numpy_helper.from_array(made[name], name) for name in inputs if name in made],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), folder / MODEL_FILE)
    template = read_manifest(write_text_classifier(folder))
    names = {"active_output": counts[0], "candidates_output": counts[1] if len(counts) > 1 else None}
    blocks = (template.blocks[0].model_copy(update=names),)
    return template.model_copy(update={"blocks": blocks, "budget_input": None})


def outputs_of(path, feed, names=None):
    session = open_session(path, threads=1)
    return session.run(names, feed)


def undone(folder, manifest, feed) -> np.ndarray:
    dense = dense_graph(folder, manifest)
    assert "lazyneuron" not in {node.domain for node in dense.graph}
    ir.save(dense, folder / "dense.onnx")
    onnx.checker.check_model(str(folder / "dense.onnx"), full_check=True)
    (y,) = open_session(folder / "dense.onnx", threads=1, sparse=False).run(None, feed)
    return y


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_sparse_down(tmp_path, activation, weights):
    inputs = ["pre", "down", "up_bias", "down_bias", "", "down_scale" if weights == "int8" else ""]
    manifest = write(tmp_path, "SparseDown", inputs, weights, ("pre", F), ["active"], activation=activation)
    feed = {"pre": RNG.standard_normal((7, F)).astype(np.float32)}
    expected = outputs_of(tmp_path / MODEL_FILE, feed)[0]
    graphs.assert_close(undone(tmp_path, manifest, feed), expected, tolerance=1e-5)


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
@pytest.mark.parametrize("mode", ["certified", "predictor", "predictor of a gated block", "gate"])
def test_sparse_mlp(tmp_path, mode, weights):
    gated = mode.endswith("gated block")
    scales = ["up_scale", "down_scale", "gate_scale" if gated else ""] if weights == "int8" else ["", "", ""]
    scores = "" if mode == "certified" else "scores"
    bias = "" if mode == "gate" else "up_bias"
    inputs = ["x", "up", "down", bias, "down_bias", "", scores, "gate" if gated else "", *scales]
    attributes = {"mode": mode.split()[0], "activation": "silu" if gated else "relu"}
    if attributes["mode"] == "predictor":
        attributes["score_threshold"] = -1e30  # all are candidates
    manifest = write(tmp_path, "SparseMLP", inputs, weights, ("x", D), ["active", "candidates"], **attributes)
    feed = {"x": RNG.standard_normal((7, D)).astype(np.float32)}
    if scores:
        feed["scores"] = RNG.standard_normal((7, F)).astype(np.float32)
    expected = outputs_of(tmp_path / MODEL_FILE, feed)[0]
    graphs.assert_close(undone(tmp_path, manifest, feed), expected, tolerance=1e-5)


def test_the_cap_is_gone(tmp_path):
    inputs = ["pre", "down", "up_bias", "down_bias"]
    capped = write(tmp_path, "SparseDown", inputs, "float32", ("pre", F), ["active"], top_k=2)
    feed = {"pre": RNG.standard_normal((7, F)).astype(np.float32)}
    made = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / MODEL_FILE).graph.initializer}
    expected = np.maximum(feed["pre"] + made["up_bias"], 0) @ made["down"] + made["down_bias"]
    graphs.assert_close(undone(tmp_path, capped, feed), expected, tolerance=1e-5)
    note = left_out(capped.model_copy(update={"blocks": (capped.blocks[0].model_copy(update={"top_k": 2}),)}))
    assert note == ["The dense graph has no top-k: every active neuron counts in it."]
    assert left_out(capped) == []


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("mode", ["exact", "certified"])
def test_a_rewritten_graph_comes_back(tmp_path, masked, flattened, mode):  # noqa: F811
    sparse, _, graph = rewrite_file(masked[flattened], mode=mode)
    sparse.rename(tmp_path / MODEL_FILE)
    template = read_manifest(write_text_classifier(tmp_path))
    names = {"active_output": graph.active_outputs[0], "candidates_output": graph.candidates_outputs[0]}
    blocks = (template.blocks[0].model_copy(update=names),)
    manifest = template.model_copy(update={"blocks": blocks, "budget_input": graph.budget_input})
    dense = dense_graph(tmp_path, manifest)
    ir.save(dense, tmp_path / "dense.onnx")
    feed = {"x": RNG.standard_normal((3, 4, D)).astype(np.float32), "row_mask": np.ones((3, 4), np.int64)}
    assert [value.name for value in dense.graph.outputs] == ["y", "used"]  # no counts
    assert graph.budget_input not in [value.name for value in dense.graph.inputs]
    kept = {name: feed[name] for name in (value.name for value in dense.graph.inputs)}
    actual = graphs.run(tmp_path / "dense.onnx", kept)["y"]
    graphs.assert_close(actual, graphs.run(masked[flattened], feed)["y"], tolerance=1e-5)


def test_a_whole_artifact(tmp_path):
    folder = write_text_classifier(tmp_path, size=Size(blocks=3))
    manifest = read_manifest(folder)
    ir.save(dense_graph(folder, manifest), tmp_path / "dense.onnx")
    feed = {"input_ids": RNG.integers(0, 12, (2, 5)), "attention_mask": np.ones((2, 5), np.int64)}
    names = [output.name for output in manifest.outputs]
    expected = open_session(folder / MODEL_FILE, threads=1).run(names, feed)
    actual = open_session(tmp_path / "dense.onnx", threads=1, sparse=False).run(names, feed)
    for got, wanted in zip(actual, expected, strict=True):
        graphs.assert_close(got, wanted, tolerance=1e-5)


def test_weights_that_are_no_constants_are_refused(tmp_path):
    manifest = write(tmp_path, "SparseDown", ["pre", "down"], "float32", ("pre", F), ["active"])
    model = onnx.load(tmp_path / MODEL_FILE)
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("down", TensorProto.FLOAT, [F, OUT]))
    onnx.save(model, tmp_path / MODEL_FILE)
    with pytest.raises(ArtifactError, match=r"input down is no constant, so its dense form is not known"):
        dense_graph(tmp_path, manifest)


def test_a_damaged_file_is_named(tmp_path):
    manifest = read_manifest(write_text_classifier(tmp_path))
    (tmp_path / MODEL_FILE).write_bytes(b"\xff" * 9)
    with pytest.raises(ArtifactError, match=r"model\.onnx: not a readable ONNX file"):
        dense_graph(tmp_path, manifest)
