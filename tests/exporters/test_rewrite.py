import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lazyneuron.engine.reference import sparse_mlp
from lazyneuron.exporters.budgets import BUDGET_INPUT
from lazyneuron.exporters.predictors import Predictor
from tests.exporters import graphs
from tests.exporters.graphs import OUT, TOLERANCE, D, F
from tests.exporters.rewriting import rewrite_file
from tests.exporters.test_calibration import masked  # noqa: F401 (a fixture)

RNG = np.random.default_rng(5)


def masked_feed(batch: int = 3, length: int = 4) -> dict[str, np.ndarray]:
    mask = np.ones((batch, length), np.int64)
    mask[1, 2:] = 0
    return {"x": RNG.standard_normal((batch, length, D)).astype(np.float32), "row_mask": mask}


@pytest.mark.parametrize("flattened", [False, True])
class TestMasks:
    def test_padding_costs_nothing_and_real_rows_do_not_change(self, masked, flattened):  # noqa: F811
        sparse, _, graph = rewrite_file(masked[flattened])
        feed = masked_feed()
        real = feed["row_mask"] != 0
        expected, actual = graphs.run(masked[flattened], feed), graphs.run(sparse, feed)
        graphs.assert_close(actual["y"][real], expected["y"][real], tolerance=TOLERANCE[np.float32])
        active = actual[graph.active_outputs[0]]
        assert active.shape == real.shape
        assert not active[~real].any()
        assert not actual["y"][~real].any()

    def test_masks_can_be_left_alone(self, masked, flattened):  # noqa: F811
        sparse, _, graph = rewrite_file(masked[flattened], use_masks=False)
        feed = masked_feed()
        expected, actual = graphs.run(masked[flattened], feed), graphs.run(sparse, feed)
        graphs.assert_close(actual["y"], expected["y"], tolerance=TOLERANCE[np.float32])
        assert actual[graph.active_outputs[0]].all()

    def test_the_budget_is_each_requests_own(self, masked, flattened):  # noqa: F811
        sparse, _, graph = rewrite_file(masked[flattened], top_k=4)
        feed = masked_feed() | {BUDGET_INPUT: np.array([1.0, 0.5, 0.25], np.float32)}
        active = graphs.run(sparse, feed)[graph.active_outputs[0]]
        assert active.max(axis=1).tolist() == [4, 2, 1]


@pytest.mark.parametrize("top_k", [None, 4])
def test_certified_blocks_compute_what_exact_ones_do(tmp_path, top_k):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    feed = {"x": RNG.standard_normal((5, 7, D)).astype(np.float32)}
    exact, _, exact_graph = rewrite_file(path, top_k=top_k)
    expected = graphs.run(exact, feed)
    certified, _, graph = rewrite_file(path, top_k=top_k, mode="certified")
    actual = graphs.run(certified, feed)
    graphs.assert_close(actual["y"], expected["y"], tolerance=TOLERANCE[np.float32])
    active, candidates = actual[graph.active_outputs[0]], actual[graph.candidates_outputs[0]]
    np.testing.assert_array_equal(active, expected[exact_graph.active_outputs[0]])
    assert (candidates >= active).all()
    assert (candidates < F).any()
    operators = [n.op_type for n in onnx.load(certified).graph.node if n.domain == "lazyneuron"]
    assert operators == ["SparseMLP"]
    assert not [t.name for t in onnx.load(certified).graph.initializer if t.name == "up"], "the dense weights stay"


@pytest.mark.parametrize("flattened", [False, True])
def test_certified_padding_costs_nothing(masked, flattened):  # noqa: F811
    sparse, _, graph = rewrite_file(masked[flattened], mode="certified")
    feed = masked_feed()
    real = feed["row_mask"] != 0
    expected, actual = graphs.run(masked[flattened], feed), graphs.run(sparse, feed)
    graphs.assert_close(actual["y"][real], expected["y"][real], tolerance=TOLERANCE[np.float32])
    for name in (graph.active_outputs[0], graph.candidates_outputs[0]):
        assert actual[name].shape == real.shape
        assert not actual[name][~real].any()


class TestPredictors:
    """Graphs in mode predictor, held to the operator's reference."""

    predictor = Predictor(
        RNG.standard_normal((D, 3)).astype(np.float32),
        RNG.standard_normal((3, F)).astype(np.float32),
        RNG.standard_normal(F).astype(np.float32),
        threshold=0.25,
    )

    def reference(self, x: np.ndarray, **options) -> tuple[np.ndarray, ...]:
        w = graphs.weights()
        scores = self.predictor.scores(x.reshape(-1, D)).reshape(*x.shape[:-1], F)
        operands = {name: w[name] for name in ("up_bias", "down", "down_bias")}
        return sparse_mlp(
            x=x, up=w["up"].T, scores=scores, **operands, mode="predictor", score_threshold=0.25, **options
        )

    @pytest.mark.parametrize("top_k", [0, 4])
    def test_only_candidates_are_computed(self, tmp_path, top_k):
        path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
        x = RNG.standard_normal((5, 7, D)).astype(np.float32)
        sparse, _, graph = rewrite_file(path, top_k=top_k or None, predictor=self.predictor)
        actual = graphs.run(sparse, {"x": x})
        y, active, candidates = self.reference(x, top_k=top_k)
        graphs.assert_close(actual["y"], y, tolerance=TOLERANCE[np.float32])
        np.testing.assert_array_equal(actual[graph.active_outputs[0]], active)
        np.testing.assert_array_equal(actual[graph.candidates_outputs[0]], candidates)
        assert 0 < candidates.mean() < F

    @pytest.mark.parametrize("flattened", [False, True])
    def test_budgets_and_padding(self, masked, flattened):  # noqa: F811
        sparse, _, graph = rewrite_file(masked[flattened], top_k=4, predictor=self.predictor)
        feed = masked_feed() | {BUDGET_INPUT: np.array([1.0, 0.5, 0.25], np.float32)}
        budget = feed["row_mask"] * feed[BUDGET_INPUT][:, None]
        y, active, candidates = self.reference(feed["x"], top_k=4, budget=budget.astype(np.float32))
        actual = graphs.run(sparse, feed)
        graphs.assert_close(actual["y"], y, tolerance=TOLERANCE[np.float32])
        np.testing.assert_array_equal(actual[graph.active_outputs[0]], active)
        np.testing.assert_array_equal(actual[graph.candidates_outputs[0]], candidates)
        assert active.max(axis=1).tolist() == [4, 2, 1]

    def test_half_precision_is_cast(self, tmp_path):
        half = (TensorProto.FLOAT16, ["batch", D]), (TensorProto.FLOAT16, ["batch", OUT])
        constants = graphs.weights(dtype=np.float16)
        path = graphs.save(
            tmp_path / "m.onnx", graphs.plain_nodes(), constants, inputs={"x": half[0]}, outputs={"y": half[1]}
        )
        sparse, *_ = rewrite_file(path, predictor=self.predictor)
        x = RNG.standard_normal((5, D)).astype(np.float16)
        y, *_ = self.reference(x.astype(np.float32))
        graphs.assert_close(graphs.run(sparse, {"x": x})["y"], y, tolerance=TOLERANCE[np.float16])


def test_a_block_that_is_reshaped_inside_stays_exact(tmp_path):
    nodes = [
        graphs.node("MatMul", "x up", "product"),
        graphs.node("Add", "product up_bias", "pre"),
        graphs.node("Relu", "pre", "h3"),
        graphs.node("Reshape", "h3 to_rows", "h"),
        graphs.node("MatMul", "h down", "y"),
    ]
    constants = graphs.weights() | {"to_rows": np.array([-1, F])}
    outputs = {"y": (TensorProto.FLOAT, ["rows", OUT])}
    path = graphs.save(tmp_path / "m.onnx", nodes, constants, outputs=outputs)
    sparse, _, graph = rewrite_file(path, mode="certified")
    assert graph.candidates_outputs == (None,)
    feed = {"x": RNG.standard_normal((2, 3, D)).astype(np.float32)}
    graphs.assert_close(graphs.run(sparse, feed)["y"], graphs.run(path, feed)["y"], tolerance=TOLERANCE[np.float32])


def test_the_budget_may_be_left_out_and_needs_no_mask(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    sparse, _, graph = rewrite_file(path, top_k=4)
    x = RNG.standard_normal((2, 3, D)).astype(np.float32)
    assert graphs.run(sparse, {"x": x})[graph.active_outputs[0]].max() == 4
    halved = graphs.run(sparse, {"x": x, BUDGET_INPUT: np.array([1.0, 0.5], np.float32)})
    assert halved[graph.active_outputs[0]].max(axis=1).tolist() == [4, 2]


def test_a_cap_of_all_neurons_is_no_cap(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    sparse, *_ = rewrite_file(path, top_k=999)
    (operator,) = (n for n in onnx.load(sparse).graph.node if n.op_type == "SparseDown")
    assert {a.name: a.i for a in operator.attribute}["top_k"] == 0


def test_rows_that_are_no_requests_have_no_budget(tmp_path):
    path = graphs.save(
        tmp_path / "m.onnx",
        graphs.plain_nodes(),
        graphs.weights(),
        inputs={"x": (TensorProto.FLOAT, [3, D])},
        outputs={"y": (TensorProto.FLOAT, [3, OUT])},
    )
    sparse, _, graph = rewrite_file(path)
    assert graph.budget_input is None
    assert [i.name for i in onnx.load(sparse).graph.input] == ["x"]


def test_no_stack_traces_are_left(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    sparse, *_ = rewrite_file(path)
    assert not any(n.metadata_props or n.doc_string for n in onnx.load(sparse).graph.node)


def test_blocks_in_a_row_that_share_a_projection_are_taken_alternately(tmp_path):
    rng = np.random.default_rng(1)
    nodes, constants = [], {}
    for i in range(4):
        nodes += [graphs.node("Gemm", f"x{i} w{i} b{i}", f"z{i}"), graphs.node("Relu", f"z{i}", f"x{i + 1}")]
        constants |= {f"w{i}": rng.standard_normal((D, D), np.float32), f"b{i}": rng.standard_normal(D, np.float32)}
    nodes[-1] = graphs.node("Identity", "z3", "x4")
    shape = (TensorProto.FLOAT, ["batch", D])
    path = graphs.save(tmp_path / "m.onnx", nodes, constants, inputs={"x0": shape}, outputs={"x4": shape})
    sparse, ledger, _ = rewrite_file(path)
    assert len(ledger.blocks) == 2
    (skipped,) = ledger.skipped.values()
    assert skipped.reason.endswith("which is taken")
    feed = {"x0": RNG.standard_normal((5, D)).astype(np.float32)}
    graphs.assert_close(graphs.run(sparse, feed)["x4"], graphs.run(path, feed)["x4"], tolerance=TOLERANCE[np.float32])


@pytest.mark.parametrize("raised", ["up_bias", "down_bias"])
def test_a_bias_with_more_axes_than_the_rows_is_no_part_of_a_block(tmp_path, raised):
    constants = graphs.weights()
    constants[raised] = constants[raised][None, None]
    rows, deep = (TensorProto.FLOAT, ["batch", D]), (TensorProto.FLOAT, [1, "batch", OUT])
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), constants, inputs={"x": rows}, outputs={"y": deep})
    sparse, ledger, _ = rewrite_file(path)
    (block,) = ledger.blocks.values()
    # What has another bias than a row's keeps its activation in the graph.
    assert (block.computed, block.down.bias is None) == (("identity", False) if raised == "up_bias" else ("relu", True))
    feed = {"x": RNG.standard_normal((5, D)).astype(np.float32)}
    expected, actual = graphs.run(path, feed)["y"], graphs.run(sparse, feed)["y"]
    assert actual.shape == expected.shape == (1, 5, OUT)
    graphs.assert_close(actual, expected, tolerance=TOLERANCE[np.float32])
