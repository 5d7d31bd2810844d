"""`export --density`, thresholds in plans, and thresholds that `auto` weighs under an allowed drop of quality."""

import json

import numpy as np
import pytest
from onnx import TensorProto

import lazyneuron
from lazyneuron.cli import main
from lazyneuron.engine.errors import CheckpointError, ConfigurationError
from lazyneuron.engine.reference.gating import activate
from lazyneuron.exporters.plan_file import PLAN_FILE, Plan
from lazyneuron.exporters.weighing import DENSITIES
from tests.exporters import graphs
from tests.exporters.activations import CONSTANTS, FORMS
from tests.support.costs import write_linear_costs

D, F, OUT, EXAMPLES, LENGTH = 16, 96, 12, 60, 10
RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A block with GELU whose neurons have means of their own, and one with ReLU after it; with calibration data."""
    folder = tmp_path_factory.mktemp("thresholds")
    nodes, constants, x = [], dict(CONSTANTS), "x"
    for name, form, scale, spread in (("smooth", "gelu, opset 20", 0.15, 2.0), ("sharp", None, 0.15, 0.8)):
        nodes += [
            graphs.node("MatMul", f"{x} {name}.up", f"{name}.product", name=f"net/{name}/up/MatMul"),
            graphs.node("Add", f"{name}.product {name}.bias", f"{name}.pre"),
            *(renamed(FORMS[form][1], name) if form else [graphs.node("Relu", f"{name}.pre", f"{name}.h")]),
            graphs.node("MatMul", f"{name}.h {name}.down", f"{name}.y", name=f"net/{name}/down/MatMul"),
            graphs.node("Add", f"{name}.y {x}", f"{name}.out"),
        ]
        constants |= {
            f"{name}.up": (RNG.standard_normal((D, F)) * scale).astype(np.float32),
            f"{name}.bias": (RNG.standard_normal(F) * spread).astype(np.float32),
            f"{name}.down": (RNG.standard_normal((F, D)) / 10).astype(np.float32),
        }
        x = f"{name}.out"
    nodes.append(graphs.node("Identity", x, "y"))
    shape = (TensorProto.FLOAT, ["batch", "sequence", D])
    path = graphs.save(folder / "two.onnx", nodes, constants, inputs={"x": shape}, outputs={"y": shape}, opset=20)
    np.savez(folder / "data.npz", x=inputs(EXAMPLES))
    return path, folder / "data.npz", constants


def renamed(form, name):
    (node,) = form
    return [graphs.node(node.op_type, f"{name}.pre", f"{name}.h")]


def inputs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, LENGTH, D)).astype(np.float32)


@pytest.fixture
def export(files, tmp_path):
    def run(*, prices=None, calibration=files[1], **options):
        if prices is not None:
            options["costs"] = write_linear_costs(tmp_path / "costs.json", **prices)
        return lazyneuron.export(files[0], tmp_path / "models" / "m", calibration=calibration, **options)

    return run


def counted(report, x) -> list[float]:
    return [block.density for block in lazyneuron.load(report.path).predict({"x": x}).sparsity.blocks]


def dense_values(constants, x):
    pre = x @ constants["smooth.up"] + constants["smooth.bias"]
    return activate(pre.astype(np.float32), "gelu")


def test_a_share_of_the_neurons_is_kept_on_data_not_seen(export):
    report = export(mode="exact", density=0.2)
    for block in report.manifest.blocks:
        # With a centre, a ReLU's zeros are at one distance from it for each neuron: at most the share is kept.
        assert 0.195 <= block.density.mean <= 0.2
        assert block.density.rows == 54 * LENGTH - 2 * LENGTH
        assert block.threshold > 0
    for share in counted(report, inputs(50, seed=1)):
        assert share == pytest.approx(0.2, rel=0.1)  # what the first block leaves out moves the second's input
    assert {block.target_density for block in report.plan.blocks} == {0.2}
    assert report.manifest.notes[-1].startswith("Small values are left out in 2 of 2 blocks: ")
    rows = counted(report, inputs(1, seed=2))
    assert rows != [0.2, 0.2]


def test_the_mean_is_recovered_where_it_helps(export):
    plain = export(mode="exact", density=0.2, recover_mean=False)
    assert [block.centred for block in plain.manifest.blocks] == [False, False]
    recovered = export(mode="exact", density=0.2)
    smooth = recovered.manifest.blocks[0]
    assert (smooth.centred, smooth.activation, smooth.operator) == (True, "identity", "SparseDown")
    errors = [report.manifest.quality.outputs[0].rms_rel_error for report in (recovered, plain)]
    assert errors[0] < 0.9 * errors[1]
    assert "what is left out counts with its mean" in recovered.manifest.notes[-1]
    assert "mean" not in plain.manifest.notes[-1]


def test_blocks_that_are_sparser_stay_as_they_are(export):
    report = export(mode="exact", density=0.7)
    smooth, sharp = report.manifest.blocks
    assert smooth.threshold > 0
    assert sharp.density.mean < 0.7
    assert (sharp.threshold, sharp.centred, sharp.activation) == (0.0, False, "relu")
    assert report.plan.blocks[1].target_density is None


def test_a_cap_holds_beside_it(export):
    report = export(mode="exact", density=0.3, top_k=F // 5)
    x = inputs(9, seed=1)
    for block, share in zip(report.manifest.blocks, counted(report, x), strict=True):
        assert block.top_k == F // 5
        assert block.density.p99 <= (F // 5) / F
        assert share <= (F // 5) / F


def test_a_cap_alone_recovers_the_mean_of_smooth_blocks(export):
    smooth, sharp = export(mode="exact", top_k=F // 5).manifest.blocks
    assert (smooth.centred, smooth.threshold, smooth.top_k) == (True, 0.0, F // 5)
    assert (sharp.centred, sharp.activation) == (False, "relu")
    assert not export(mode="exact", top_k=F // 5, recover_mean=False).manifest.blocks[0].centred


def test_certified_blocks_have_thresholds_without_a_mean(export):
    report = export(mode="certified", density=0.2)
    smooth, sharp = report.manifest.blocks
    assert (smooth.mode, smooth.centred) == ("exact", True)
    assert (sharp.mode, sharp.centred, sharp.activation) == ("certified", False, "relu")
    assert sharp.density.mean == pytest.approx(0.2, abs=0.002)
    assert sharp.candidates >= 0.19


def test_the_worst_goes_back_where_a_loss_is_allowed(export):
    whole = export(mode="exact", density=0.2).manifest.quality.outputs[0].rms_rel_error
    half = export(mode="exact", density=0.2, max_quality_drop=0.9 * whole)
    cut = [block.threshold > 0 for block in half.manifest.blocks]
    assert sum(cut) < 2
    assert half.manifest.quality.outputs[0].rms_rel_error <= 0.9 * whole
    assert any("its threshold would let the quality drop by more than" in note for note in half.manifest.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 1.5}, r"density is 1.5; expected a share above 0 and below 1"),
        ({"density": 0.0}, r"density is 0.0; expected a share above 0 and below 1"),
        ({"density": 0.2, "mode": "predictor"}, "density is given with mode 'predictor'"),
        ({"density": 0.2, "calibration": None}, "density needs calibration data"),
        ({"density": 0.2, "plan": "plan.json"}, "density and a plan are given"),
    ],
)
def test_what_does_not_go_together_is_refused(export, options, message, tmp_path):
    if "plan" in options:
        options["plan"] = tmp_path / "plan.json"
        options["plan"].write_text('{"format_version": 1, "blocks": [{"name": "a", "mode": "exact"}]}')
    with pytest.raises(ConfigurationError, match=message):
        export(**options)


class TestWeighed:
    """Mode auto, with costs of a density that a test gives."""

    @pytest.fixture(autouse=True)
    def cheap(self, monkeypatch):
        """Price subtraction as it is for large blocks: here a call of it takes as long as all the rest."""
        monkeypatch.setattr("lazyneuron.exporters.planner.subtraction_share", lambda *_: 0.02)

    def test_the_allowed_drop_is_kept_and_cheaper_is_better(self, export):
        reports = [export(prices={"screen": 9.0}, max_quality_drop=most) for most in (0.02, 0.1, 0.4)]
        totals = [report.plan.total() for report in reports]
        assert totals[0] >= totals[1] > totals[2]
        for report, most in zip(reports, (0.02, 0.1, 0.4), strict=True):
            assert report.manifest.quality.outputs[0].rms_rel_error <= most
        chosen = reports[-1].plan.blocks[0]
        assert chosen.target_density in DENSITIES
        assert chosen.predicted == chosen.chosen.microseconds_per_row
        assert chosen.reason == "the cheapest of those weighed, within the allowed drop of quality"
        weighed = [a for a in chosen.alternatives if a.target_density is not None]
        assert {a.target_density for a in weighed} == set(DENSITIES)
        drops = {a.target_density: a.drop for a in weighed if a.centred}
        assert drops[0.05] > drops[0.2] > drops[0.5] > 0
        without = {a.target_density: a.drop for a in weighed if not a.centred}
        assert all(drops[share] < without[share] for share in drops)

    def test_a_plan_that_was_written_is_done_again(self, export, tmp_path):
        first = export(prices={"screen": 9.0}, max_quality_drop=0.4)
        (tmp_path / "mine.json").write_bytes((first.path / PLAN_FILE).read_bytes())
        second = export(plan=tmp_path / "mine.json")
        assert second.plan == Plan.model_validate_json((first.path / PLAN_FILE).read_bytes())
        assert second.manifest.blocks == first.manifest.blocks

    def test_where_nothing_fits_a_dense_model_is_refused(self, files, export, tmp_path):
        smooth = tmp_path / "smooth.onnx"
        nodes = graphs.plain_nodes(graphs.node("Gelu", "pre", "h"))
        graphs.save(smooth, nodes, graphs.weights(), opset=20)
        np.savez(tmp_path / "x.npz", x=RNG.standard_normal((20, 4, graphs.D)).astype(np.float32))
        options = {"calibration": tmp_path / "x.npz", "costs": write_linear_costs(tmp_path / "costs.json")}
        with pytest.raises(CheckpointError, match=r"no block can be made sparser .* \(1e-07\)"):
            lazyneuron.export(smooth, tmp_path / "m", max_quality_drop=1e-7, **options)
        report = lazyneuron.export(smooth, tmp_path / "m", max_quality_drop=0.6, **options)
        assert report.manifest.blocks[0].threshold > 0

    def test_a_cap_says_what_is_kept(self, export):
        report = export(prices={}, max_quality_drop=0.4, top_k=20, mode="auto")
        assert all(block.target_density is None for block in report.plan.blocks)

    def test_the_command_explains_it(self, files, tmp_path, capsys):
        costs = write_linear_costs(tmp_path / "costs.json", screen=9.0)
        command = ["export", str(files[0]), "--output", str(tmp_path / "m"), "--calibration", str(files[1])]
        main([*command, "--costs", str(costs), "--max-quality-drop", "0.4", "--explain"])
        out = capsys.readouterr().out
        assert "smooth: exact, 10.00 % kept, the mean of the others recovered" in out
        assert " of quality" in out


class TestPlans:
    @pytest.fixture
    def plan(self, tmp_path):
        def write(smooth, sharp=None):
            blocks = [{"name": "smooth", "mode": "exact"} | smooth, {"name": "sharp", "mode": "exact"} | (sharp or {})]
            (tmp_path / "mine.json").write_text(json.dumps({"format_version": 1, "blocks": blocks}))
            return tmp_path / "mine.json"

        return write

    def test_densities_and_thresholds_block_by_block(self, export, plan, files):
        report = export(plan=plan({"target_density": 0.3, "centred": False}, {"threshold": 0.5}))
        smooth, sharp = report.manifest.blocks
        assert (smooth.centred, sharp.threshold) == (False, 0.5)
        assert smooth.density.mean == pytest.approx(0.3, abs=0.002)
        assert 0 < sharp.density.mean < 0.4
        x = inputs(8, seed=5)
        values = dense_values(files[2], x)
        assert counted(report, x)[0] == pytest.approx((np.abs(values) > smooth.threshold).mean(), abs=1e-3)

    def test_a_mean_is_recovered_unless_the_plan_says_no(self, export, plan):
        assert export(plan=plan({"target_density": 0.2})).manifest.blocks[0].centred

    @pytest.mark.parametrize(
        ("smooth", "options", "message"),
        [
            ({"mode": "dense", "target_density": 0.2}, {}, "block smooth: mode dense takes no threshold; use exact"),
            ({"target_density": 0.2}, {"calibration": None}, "block smooth has a target_density, which needs cal"),
            ({"target_density": 2.0}, {}, r"blocks\.0\.target_density: Input should be less than 1"),
            ({"threshold": -1.0}, {}, r"blocks\.0\.threshold: Input should be greater than or equal to 0"),
            ({"mode": "certified", "target_density": 0.2}, {}, "mode certified does not fit it; use exact"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, export, plan, smooth, options, message):
        with pytest.raises(ConfigurationError, match=message):
            export(plan=plan(smooth), **options)
