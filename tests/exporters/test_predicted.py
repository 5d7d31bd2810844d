"""Where `--mode auto` and plans give blocks predictors, by costs that the tests give."""

import json

import numpy as np
import pytest

import lazyneuron
from lazyneuron.cli import main
from lazyneuron.engine.cost import Work
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.plan_file import PLAN_FILE
from lazyneuron.exporters.predictors import training
from lazyneuron.exporters.weighing import DENSITIES
from tests.exporters.predictors import planted
from tests.support.costs import linear_costs, write_linear_costs

RANK = 8
PRICES = {"rank": RANK, "screen": 0.8}
UNIT = planted.F * (planted.D + planted.OUT) / 2 * 1e-9 * 1e6
"""A projection's predicted microseconds a row."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A block that a low rank predicts well, its calibration data, and a cache that the tests share."""
    folder = tmp_path_factory.mktemp("predicted")
    np.savez(folder / "data.npz", x=planted.inputs(100))
    return planted.save(folder, planted.weights(rank=6, noise=0.3)), folder / "data.npz", folder / "cache"


@pytest.fixture
def export(files, tmp_path):
    def run(*, prices=None, calibration=files[1], **options):
        costs = write_linear_costs(tmp_path / "costs.json", **PRICES | (prices or {}))
        return lazyneuron.export(
            files[0], tmp_path / "models" / "m", calibration=calibration, cache=files[2], costs=costs, **options
        )

    return run


def test_a_predictor_that_is_cheaper_and_good_enough_is_taken(export):
    report = export(max_quality_drop=0.5)
    (block,), (made,) = report.plan.blocks, report.manifest.blocks
    assert (block.mode, made.mode, report.manifest.mode) == ("predictor",) * 3
    assert [a.mode for a in block.alternatives[:4]] == ["dense", "exact", "certified", "predictor"]
    sparser = {share for share in DENSITIES if share <= 0.9 * block.density}
    assert {a.target_density for a in block.alternatives[4:]} <= sparser
    assert sparser
    offered = block.alternatives[3]
    assert 0 < offered.drop < 0.1
    assert (offered.rank, offered.recall) == (made.predictor_rank, made.predictor_recall)
    assert offered.candidates == pytest.approx(made.candidates, abs=0.01)
    assert block.predicted == min(a.microseconds_per_row for a in block.alternatives)
    assert block.reason == "the cheapest of those weighed, within the allowed drop of quality"
    assert 0 < report.manifest.quality.outputs[0].rms_rel_error <= 0.5
    assert f"a predictor of rank {offered.rank}, held-out recall" in report.report.read_text()


def test_it_is_priced_by_its_own_rank_and_candidates(export):
    (block,) = export(max_quality_drop=0.5).plan.blocks
    offered = block.alternatives[3]
    products = (offered.rank - RANK) * (planted.D + planted.F) / (planted.F * (planted.D + planted.OUT) / 2)
    work = Work(planted.D, planted.F, planted.OUT, 20, block.density, offered.candidates)
    measured = 1e6 * linear_costs(**PRICES).seconds_per_row("predictor", work)
    assert offered.rank != RANK
    assert offered.microseconds_per_row == pytest.approx(measured + products * UNIT, rel=1e-3)


@pytest.mark.parametrize("most", [None, 0.0])
def test_without_a_loss_allowed_none_is_trained(export, monkeypatch, most):
    monkeypatch.setattr(training, "train_block", None)
    report = export(max_quality_drop=most)
    assert [a.mode for a in report.plan.blocks[0].alternatives] == ["dense", "exact", "certified"]


def test_one_that_cannot_be_cheaper_is_not_trained(export, monkeypatch):
    monkeypatch.setattr(training, "collect", None)
    monkeypatch.setattr(training, "train_block", None)
    report = export(prices={"predictor": 9.0}, max_quality_drop=0.5)
    assert report.plan.blocks[0].mode == "certified"
    assert "predictor" not in {a.mode for a in report.plan.blocks[0].alternatives}


def test_one_that_costs_too_much_quality_is_weighed_and_not_taken(export):
    report = export(max_quality_drop=1e-9)
    (block,) = report.plan.blocks
    assert (block.mode, report.manifest.mode) == ("certified", "certified")
    assert block.cost_of("predictor") < block.predicted
    assert report.manifest.notes == (
        "enc.mlp is certified: its predictor and threshold would let the quality drop by more than 1e-09.",
    )


def test_one_that_turns_out_dearer_is_told_and_not_taken(export):
    # Of the least rank and no candidate too many it would be cheaper; as it is it has some.
    certified = export().plan.blocks[0].cost_of("certified") / UNIT
    cheap = export(max_quality_drop=0.5).plan.blocks[0]
    own = cheap.cost_of("predictor") / UNIT
    report = export(prices={"predictor": 0.1 + certified - own + 0.01}, max_quality_drop=0.5)
    (block,) = report.plan.blocks
    assert block.mode == "certified"
    assert block.cost_of("predictor") > block.cost_of("certified")
    assert not any("predictor" in note for note in report.manifest.notes)


def test_no_or_too_little_calibration_data_is_noted(export, tmp_path):
    report = export(calibration=None, max_quality_drop=0.5)
    assert "Predictors were not weighed: they need calibration data." in report.manifest.notes
    np.savez(tmp_path / "few.npz", x=planted.inputs(12))
    report = export(calibration=tmp_path / "few.npz", max_quality_drop=0.5)
    assert any(
        note.startswith("Predictors were not weighed: few.npz: 12 examples are too few")
        for note in report.manifest.notes
    )


class TestGivenBack:
    @pytest.fixture
    def plan(self, tmp_path):
        def write(**block):
            document = {"format_version": 1, "blocks": [{"name": "enc.mlp", **block}]}
            (tmp_path / "mine.json").write_text(json.dumps(document))
            return tmp_path / "mine.json"

        return write

    def test_a_plan_may_ask_for_a_predictor(self, export, plan):
        report = export(plan=plan(mode="predictor", top_k=9))
        (block,) = report.manifest.blocks
        assert (block.mode, block.top_k, report.plan.blocks[0].mode) == ("predictor", 9, "predictor")
        assert block.predictor_recall > 0.98

    def test_what_an_export_wrote_is_done_again(self, export, tmp_path):
        first = export(max_quality_drop=0.5)
        (tmp_path / "written.json").write_bytes((first.path / PLAN_FILE).read_bytes())
        second = export(plan=tmp_path / "written.json")
        assert second.plan == first.plan
        assert second.manifest.blocks == first.manifest.blocks

    def test_the_allowed_loss_holds_here_too(self, export, plan):
        report = export(plan=plan(mode="predictor"), max_quality_drop=1e-9)
        assert report.manifest.blocks[0].mode == report.plan.blocks[0].mode == "certified"

    def test_it_needs_calibration_data(self, export, plan):
        with pytest.raises(
            ConfigurationError, match=r"mine\.json: block enc\.mlp is in mode predictor, which needs cal"
        ):
            export(plan=plan(mode="predictor"), calibration=None)

    def test_a_block_that_none_fits_is_refused(self, tmp_path, plan):
        from tests.exporters import graphs
        from tests.exporters.activations import CONSTANTS, FORMS

        nodes = graphs.plain_nodes()
        nodes[2:3] = FORMS["silu, composed"][1]
        path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights() | CONSTANTS)
        np.savez(tmp_path / "data.npz", x=np.zeros((3, 4, graphs.D), np.float32))
        with pytest.raises(ConfigurationError, match=r"block enc\.mlp: mode predictor does not fit it; use "):
            lazyneuron.export(
                path, tmp_path / "m", calibration=tmp_path / "data.npz", plan=plan(mode="predictor", top_k=3)
            )


def test_the_command_explains_it(files, tmp_path, capsys):
    costs = write_linear_costs(tmp_path / "costs.json", **PRICES)
    paths = ["--calibration", str(files[1]), "--cache", str(files[2]), "--costs", str(costs)]
    main(["export", str(files[0]), "--output", str(tmp_path / "m"), *paths, "--max-quality-drop", "0.5", "--explain"])
    out = capsys.readouterr().out
    assert "enc.mlp: a predictor of rank " in out
    assert "held-out recall 99." in out
