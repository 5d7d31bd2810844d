"""Graphs with thresholds and centres: held to NumPy, to the probe's plain ONNX form, and undone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyneuron.engine.artifact import MODEL_FILE, read_manifest
from lazyneuron.engine.reference import sparse_down
from lazyneuron.engine.reference.gating import activate
from lazyneuron.exporters.bench.undo import dense_graph
from lazyneuron.exporters.budgets import BUDGET_INPUT
from lazyneuron.exporters.calibration import BlockCounts, density
from lazyneuron.exporters.cuts import Cut
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.plan import Choice, block_plan, choose
from lazyneuron.exporters.probe import Probe
from lazyneuron.exporters.rewrite import rewrite
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.settings import ExportSettings
from tests.exporters import graphs
from tests.exporters.activations import CONSTANTS, FORMS
from tests.exporters.graphs import TOLERANCE, D, F
from tests.exporters.test_calibration import masked  # noqa: F401 (a fixture)
from tests.support.architectures import open_architecture
from tests.support.artifacts import write_text_classifier

RNG = np.random.default_rng(8)
CENTRE = (RNG.standard_normal(F) * 0.3).astype(np.float32)
KINDS = ("relu", "gelu", "gated silu", "gated relu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind of block, and what its neurons' values are."""
    folder = tmp_path_factory.mktemp("kinds")
    found = {}
    for kind in KINDS:
        activation = kind.split()[-1]
        form = [graphs.node("Relu", "pre", "h")] if activation == "relu" else None
        form = form or FORMS["gelu, opset 20" if activation == "gelu" else "silu, composed"][1]
        constants = graphs.weights() | CONSTANTS
        nodes = graphs.plain_nodes()
        nodes[2:3] = form
        if "gated" in kind:
            constants["linear"] = RNG.standard_normal((D, F)).astype(np.float32)
            nodes[-2:-2] = [graphs.node("MatMul", "x linear", "z"), graphs.node("Mul", "h z", "gated")]
            nodes[-2] = graphs.node("MatMul", "gated down", "second", name="enc/mlp/down/MatMul")
        found[kind] = graphs.save(folder / f"{kind.replace(' ', '-')}.onnx", nodes, constants, opset=20), constants
    return found


def values_of(kind: str, constants, x):
    pre = (x @ constants["up"] + constants["up_bias"]).astype(np.float32)
    values = activate(pre, kind.split()[-1])
    return values * (x @ constants["linear"]).astype(np.float32) if "gated" in kind else values


def cut_of(threshold: float, centre=None, top_k: int = 0) -> Cut:
    return Cut(threshold, top_k, centre, density(BlockCounts.empty(1, F)), 0.0)


def cut_file(path, cut: Cut, *, use_masks: bool = True):
    """Rewrite a file's blocks with a cut; return the sparse file, its graph and the choices."""
    dense, ledger = graphs.read(path)
    blocks = list(ledger.blocks.values())
    counts = [BlockCounts.empty(block.d_model, block.d_ff) for block in blocks]
    chosen = choose(blocks, counts, ExportSettings(mode="exact"))
    choices = {key: choice.cut(cut) for key, choice in zip(ledger.blocks, chosen, strict=True)}
    graph = rewrite(dense.model, dense.inputs, choices, use_masks=use_masks)
    sparse = path.with_suffix(".sparse.onnx")
    save(graph.model, sparse)
    onnx.checker.check_model(str(sparse))
    return sparse, graph, choices


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(
    threshold=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    centred=st.booleans(),
    top_k=st.sampled_from([0, 3, F]),
    seed=st.integers(0, 2**31),
)
def test_outputs_and_counts_are_numpys(files, kind, threshold, centred, top_k, seed):
    path, constants = files[kind]
    x = np.random.default_rng(seed).standard_normal((2, 3, D)).astype(np.float32)
    sparse, graph, _ = cut_file(path, cut_of(threshold, CENTRE if centred else None, top_k))
    actual = graphs.run(sparse, {"x": x})
    values = values_of(kind, constants, x)
    centre = CENTRE if centred else np.zeros(F, np.float32)
    gated = "identity" if centred or kind != "relu" else "relu"
    bias = (constants["down_bias"] + centre.astype(np.float64) @ constants["down"]).astype(np.float32)
    y, active = sparse_down(
        values - centre, constants["down"], down_bias=bias, activation=gated, top_k=top_k, threshold=threshold
    )
    size = np.abs(values - centre)
    sure = np.abs(size - threshold).min() > 1e-6  # the order of sums decides nothing
    if sure:
        graphs.assert_close(actual["y"], y, tolerance=TOLERANCE[np.float32])
        np.testing.assert_array_equal(actual[graph.active_outputs[0]], active)
    if threshold == 0 and top_k in (0, F):
        graphs.assert_close(actual["y"], graphs.run(path, {"x": x})["y"], tolerance=TOLERANCE[np.float32])


@pytest.mark.parametrize("flattened", [False, True])
def test_padding_gives_zeros_and_real_rows_the_bias(masked, flattened):  # noqa: F811
    sparse, graph, _ = cut_file(masked[flattened], cut_of(1e9, CENTRE))  # nothing is kept
    mask = np.ones((3, 4), np.int64)
    mask[1, 2:] = 0
    feed = {"x": RNG.standard_normal((3, 4, D)).astype(np.float32), "row_mask": mask}
    actual = graphs.run(sparse, feed)
    w = graphs.weights()
    expected = np.where(mask[..., None] != 0, w["down_bias"] + CENTRE @ w["down"], 0)
    graphs.assert_close(actual["y"], expected, tolerance=TOLERANCE[np.float32])
    assert not actual[graph.active_outputs[0]].any()
    everything, _, _ = cut_file(masked[flattened], cut_of(0.0, CENTRE))
    budgeted = graphs.run(everything, feed | {BUDGET_INPUT: np.array([1.0, 0.5, 0.0], np.float32)})
    active = budgeted[graph.active_outputs[0]]
    assert active[0].tolist() == [F] * 4
    assert active[1].tolist() == [F // 2] * 2 + [0, 0]
    assert not budgeted["y"][2].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_undone(files, tmp_path, kind, biased):
    path, _ = files[kind]
    if not biased:
        model = onnx.load(path)
        del model.graph.node[-1]
        model.graph.node[-1].output[0] = "y"
        path = tmp_path / "unbiased.onnx"
        onnx.save(model, path)
    sparse, graph, choices = cut_file(path, cut_of(0.4, CENTRE))
    (choice,) = choices.values()
    block = block_plan(choice, graph.active_outputs[0], None, 1.0)
    assert (block.threshold, block.centred, block.activation, block.operator) == (0.4, True, "identity", "SparseDown")
    assert block.flops.per_row == F * (1 + 2 * D * block.gated)
    (tmp_path / MODEL_FILE).write_bytes(sparse.read_bytes())
    template = read_manifest(write_text_classifier(tmp_path / "other"))
    manifest = template.model_copy(update={"blocks": (block,), "budget_input": graph.budget_input})
    dense = dense_graph(tmp_path, manifest)
    operators = [node.op_type for node in dense.graph]
    assert "Sub" not in operators
    assert operators.count("MatMul") == 2 + ("gated" in kind)
    assert (operators[-1] == "Add") == biased
    ir.save(dense, tmp_path / "dense.onnx")
    x = RNG.standard_normal((2, 3, D)).astype(np.float32)
    got, expected = graphs.run(tmp_path / "dense.onnx", {"x": x})["y"], graphs.run(path, {"x": x})["y"]
    graphs.assert_close(got, expected, tolerance=1e-6)


@pytest.mark.parametrize("name", ["GPT-2 (gelu_new)", "Llama", "BERT (gelu)"])
def test_whole_models_and_the_probe_agree(tmp_path, name):
    opened = open_architecture(name, tmp_path)
    dense, ledger = opened.dense, SimpleNamespace(blocks=opened.blocks)
    rng = np.random.default_rng(0)
    blocks = list(ledger.blocks.values())
    counts = [BlockCounts.empty(block.d_model, block.d_ff) for block in blocks]
    chosen = choose(blocks, counts, ExportSettings(mode="exact"))
    choices: dict[str, Choice] = {}
    for key, choice in zip(ledger.blocks, chosen, strict=True):
        centre = (rng.standard_normal(choice.block.d_ff) * 0.05).astype(np.float32)
        choices[key] = choice.cut(replace(cut_of(0.02), centre=centre))
    graph = rewrite(dense.model, dense.inputs, choices, use_masks=True)
    save(graph.model, tmp_path / "sparse.onnx")
    feed = {}
    for spec in dense.inputs:
        shape = [2, 7][: len(spec.shape)]
        feed[spec.name] = np.ones(shape, spec.dtype) if spec.role == "mask" else rng.integers(3, 90, shape)
        feed[spec.name] = np.zeros(shape, spec.dtype) if spec.role == "token_types" else feed[spec.name]
    actual = graphs.run(tmp_path / "sparse.onnx", feed)
    session = SimpleNamespace(close=lambda: None)
    measured = Measured(dense, ledger, counts, session, None, 1, 1)
    probe = Probe(measured, {}, tmp_path, argmax=False)
    names = [spec.name for spec in dense.outputs]
    plain = dict(zip(names, probe._session.run(names, feed), strict=True))
    expected = dict(zip(names, probe._session.run(names, feed | probe._switches(choices)), strict=True))
    save(dense.model, tmp_path / "plain.onnx")
    untouched = graphs.run(tmp_path / "plain.onnx", feed)
    for output in names:
        graphs.assert_close(actual[output], expected[output], tolerance=1e-4)
        graphs.assert_close(plain[output], untouched[output], tolerance=1e-4)
        assert np.abs(actual[output] - plain[output]).max() > 1e-5
    active = actual[graph.active_outputs[0]]
    assert 0 < active.mean() < choice.block.d_ff
