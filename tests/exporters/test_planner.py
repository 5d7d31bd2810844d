"""What is done to each block, by costs that the tests give."""

import json

import numpy as np
import pytest
from onnx import TensorProto

import lazyneuron
from lazyneuron.engine.artifact import read_manifest, verify_files
from lazyneuron.engine.cost_files import write_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import this_machine
from lazyneuron.exporters.plan_file import PLAN_FILE, Plan, read_plan
from tests.exporters import graphs
from tests.exporters.graphs import F
from tests.support.costs import linear_costs, write_linear_costs

WIDE, EXAMPLES, LENGTH = 32, 40, 4
RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planner")


@pytest.fixture(scope="module")
def checkpoint(folder):
    """Two blocks of 32/128: the first with few active neurons, the second with most of them active."""
    nodes, constants, x = [], {}, "x"
    for name, bias in (("sparse", -4.0), ("full", 2.0)):
        up, down = f"{name}.up", f"{name}.down"
        constants |= {
            up: (RNG.standard_normal((WIDE, 4 * WIDE)) / 4).astype(np.float32),
            f"{name}.bias": np.full(4 * WIDE, bias, np.float32),
            down: (RNG.standard_normal((4 * WIDE, WIDE)) / 20).astype(np.float32),
        }
        nodes += [
            graphs.node("MatMul", f"{x} {up}", f"{name}.product", name=f"net/{name}/up/MatMul"),
            graphs.node("Add", f"{name}.product {name}.bias", f"{name}.pre"),
            graphs.node("Relu", f"{name}.pre", f"{name}.h"),
            graphs.node("MatMul", f"{name}.h {down}", f"{name}.y", name=f"net/{name}/down/MatMul"),
        ]
        x = f"{name}.y"
    # The second block gets what the input is, so that its rows are of the same size.
    nodes[4] = graphs.node("MatMul", "x full.up", "full.product", name="net/full/up/MatMul")
    nodes.append(graphs.node("Add", "sparse.y full.y", "y"))
    shape = (TensorProto.FLOAT, ["batch", "sequence", WIDE])
    return graphs.save(folder / "two.onnx", nodes, constants, inputs={"x": shape}, outputs={"y": shape})


@pytest.fixture(scope="module")
def calibration(folder):
    x = RNG.standard_normal((EXAMPLES, LENGTH, WIDE)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    return folder / "data.npz"


@pytest.fixture
def export(checkpoint, calibration, tmp_path):
    def run(*, prices=None, **options):
        if prices is not None:
            options["costs"] = write_linear_costs(tmp_path / "costs.json", **prices)
        return lazyneuron.export(checkpoint, tmp_path / "models" / "m", calibration=calibration, **options)

    return run


def modes(report) -> dict[str, str]:
    return {block.name.rpartition(".")[2]: block.mode for block in report.plan.blocks}


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ({"screen": 0.0, "candidate": 1.2}, {"sparse": "certified", "full": "exact"}),
        ({"screen": 9.0}, {"sparse": "exact", "full": "exact"}),
        ({"screen": 0.0, "active": 1.5}, {"sparse": "certified", "full": "dense"}),
        ({"screen": 9.0, "active": 1.5}, {"sparse": "exact", "full": "dense"}),
        ({"screen": 0.0, "active": 0.0, "candidate": 0.0}, {"sparse": "certified", "full": "certified"}),
    ],
)
def test_each_block_gets_the_cheapest(export, prices, expected):
    report = export(prices=prices)
    assert modes(report) == expected
    for block in report.plan.blocks:
        assert block.predicted == min(a.microseconds_per_row for a in block.alternatives)
        assert [a.mode for a in block.alternatives] == ["dense", "exact", "certified"]
    assert report.manifest.mode == ("certified" if "certified" in expected.values() else "exact")
    assert report.manifest.quality.outputs[0].max_rel_error < 1e-5
    assert [b.name for b in report.manifest.blocks] == [b.name for b in report.plan.blocks if b.mode != "dense"]


def test_the_prediction_is_of_the_measured_density_and_candidates(export):
    report = export(prices={"screen": 0.0})
    sparse = report.plan.blocks[0]
    density, candidates = sparse.density, {a.mode: a.candidates for a in sparse.alternatives}["certified"]
    assert candidates == report.manifest.blocks[0].candidates  # on the same held-out examples
    assert density < candidates < 0.5
    unit = WIDE * 4 * WIDE * 1e-9 * 1e6
    assert sparse.cost_of("dense") == pytest.approx(2 * unit, rel=1e-3)
    assert sparse.cost_of("exact") == pytest.approx((1.01 + density) * unit, rel=1e-3)
    assert sparse.cost_of("certified") == pytest.approx((0.01 + candidates + density) * unit, rel=1e-3)
    assert report.plan.total() == pytest.approx(sum(b.predicted for b in report.plan.blocks))


def test_a_dense_block_is_left_as_it_is_and_said(export):
    report = export(prices={"screen": 9.0, "active": 1.5})
    (note,) = report.manifest.notes
    assert note.startswith("full stays dense and is not counted: ")
    prediction = lazyneuron.load(report.path).predict({"x": np.ones((1, 2, WIDE), np.float32)})
    assert len(prediction.sparsity.blocks) == 1


def test_where_nothing_pays_one_block_is_kept(export):
    report = export(prices={"screen": 9.0, "active": 900.0})
    assert modes(report) == {"sparse": "exact", "full": "dense"}
    assert report.plan.blocks[0].reason.startswith("no block is predicted to gain; this one loses least")


def test_rows_are_a_calibration_examples(export):
    assert export().plan.rows == LENGTH
    assert export(rows=77).plan.rows == 77


def test_the_whole_model_is_predicted_by_this_machines_own_costs_alone(export, tmp_path):
    assert export(prices={"screen": 9.0}).plan.whole_model is None
    own = tmp_path / "own.json"
    write_costs(linear_costs(machine=this_machine(), unit=1e-11), own)
    plan = export(costs=own, rows=4 * LENGTH).plan
    whole = plan.whole_model
    assert (whole.rows, whole.threads) == (4 * LENGTH, 1)
    saved = 1e-3 * whole.rows * (plan.total("dense") - plan.total())
    assert saved > 0
    assert whole.predicted_milliseconds == pytest.approx(whole.dense_milliseconds - saved, rel=2e-3)


def test_under_a_cap_nothing_stays_dense(export):
    report = export(prices={"active": 90.0}, top_k=5)
    for block in report.plan.blocks:
        assert [a.mode for a in block.alternatives] == ["exact", "certified"]
        assert block.top_k == 5


def test_a_mode_that_was_asked_for_weighs_nothing(export):
    plan = export(mode="certified").plan
    assert plan.costs is plan.rows is plan.total() is None
    assert {block.mode for block in plan.blocks} == {"certified"}
    assert plan.blocks[0].reason == "--mode certified"


class TestGivenBack:
    @pytest.fixture
    def plan(self, export, tmp_path):
        """A plan's document, and writing it to a file."""
        document = json.loads((export(prices={"screen": 9.0}).path / PLAN_FILE).read_text())

        def write(document):
            (tmp_path / "mine.json").write_text(json.dumps(document))
            return tmp_path / "mine.json"

        return document, write

    def test_it_is_done_again(self, export, plan):
        document, write = plan
        report = export(plan=write(document))
        assert report.plan == Plan.model_validate(document)
        assert modes(report) == {"sparse": "exact", "full": "exact"}

    def test_it_can_be_edited(self, export, plan):
        document, write = plan
        document["blocks"] = [
            {"name": document["blocks"][0]["name"], "mode": "certified", "top_k": 6},
            {"name": document["blocks"][1]["name"], "mode": "dense"},
        ]
        report = export(plan=write(document))
        assert modes(report) == {"sparse": "certified", "full": "dense"}
        assert [block.top_k for block in report.manifest.blocks] == [6]
        assert report.plan.blocks[0].top_k == 6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d | {"format_version": 2}, "format_version is 2; this lazyneuron reads 1"),
            (lambda d: d | {"blocks": []}, r"blocks: Tuple should have at least 1 item"),
            (lambda d: d | {"blocks": d["blocks"][:1]}, r"block full is missing; expected sparse, full"),
            (lambda d: d | {"blocks": [*d["blocks"], d["blocks"][0]]}, r"block sparse is in it twice"),
            (lambda d: d | {"blocks": [*d["blocks"], {"name": "x", "mode": "exact"}]}, "the model has no block x"),
            (lambda d: d | {"blocks": [b | {"mode": "dense"} for b in d["blocks"]]}, "every block is dense"),
            (
                lambda d: d | {"blocks": [b | {"mode": "fast"} for b in d["blocks"]]},
                r"blocks\.0\.mode: Input should be",
            ),
            (lambda d: d | {"blocks": [b | {"top_k": 999} for b in d["blocks"]]}, "top_k is 999; expected at most 128"),
            (lambda d: [d], "format_version is None"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, export, plan, change, message):
        document, write = plan
        with pytest.raises(ConfigurationError, match=message) as caught:
            export(plan=write(change(document)))
        assert "mine.json" in str(caught.value)

    def test_a_mode_beside_it_is_refused(self, export, plan):
        document, write = plan
        with pytest.raises(ConfigurationError, match="mode is 'exact' and a plan is given, too"):
            export(plan=write(document), mode="exact")

    def test_a_missing_or_broken_file(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"absent\.json: no such file; a plan is an artifact's plan\.json"):
            read_plan(tmp_path / "absent.json")
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(ConfigurationError, match=r"broken\.json: not readable as JSON"):
            read_plan(tmp_path / "broken.json")


def test_the_plan_is_one_of_the_artifacts_files(export):
    path = export().path
    manifest = read_manifest(path)
    assert PLAN_FILE in manifest.files
    verify_files(path, manifest)
    assert "<h2>Plan</h2>" in (path / "report.html").read_text()


def test_a_block_that_cannot_be_certified(tmp_path):
    nodes = [
        graphs.node("MatMul", "x up", "product"),
        graphs.node("Add", "product up_bias", "pre"),
        graphs.node("Relu", "pre", "h3"),
        graphs.node("Reshape", "h3 to_rows", "h"),
        graphs.node("MatMul", "h down", "y"),
    ]
    constants = graphs.weights() | {"to_rows": np.array([-1, F])}
    outputs = {"y": (TensorProto.FLOAT, ["rows", graphs.OUT])}
    path = graphs.save(tmp_path / "m.onnx", nodes, constants, outputs=outputs)
    costs = write_linear_costs(tmp_path / "costs.json", screen=0.0)
    plan = lazyneuron.export(path, tmp_path / "models" / "m", costs=costs).plan
    assert [a.mode for a in plan.blocks[0].alternatives] == ["dense", "exact"]
    (tmp_path / "mine.json").write_text(
        json.dumps({"format_version": 1, "blocks": [{"name": plan.blocks[0].name, "mode": "certified"}]})
    )
    with pytest.raises(ConfigurationError, match="mode certified does not fit it; use exact"):
        lazyneuron.export(path, tmp_path / "models" / "m", plan=tmp_path / "mine.json")
