"""`export --mode predictor` from a checkpoint to what is served."""

import json

import numpy as np
import pytest

import lazyneuron
from lazyneuron.exporters import api
from tests.exporters import graphs
from tests.exporters.predictors import planted


@pytest.fixture(scope="module")
def planted_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    np.savez(folder / "data.npz", x=planted.inputs(100))
    return planted.save(folder, planted.weights(rank=6, noise=0.3)), folder / "data.npz"


def export(files, output, cache, **options):
    return lazyneuron.export(files[0], output, calibration=files[1], mode="predictor", cache=cache, **options)


@pytest.fixture(scope="module")
def report(planted_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return export(planted_files, folder / "planted", folder / "cache")


def test_the_manifest_tells_rank_recall_and_cost(report):
    manifest = report.manifest
    (block,) = manifest.blocks
    assert (manifest.mode, block.mode, block.operator) == ("predictor", "predictor", "SparseMLP")
    assert block.predictor_recall >= 0.99
    assert block.predictor_energy >= block.predictor_recall
    assert block.flops.per_row == 2 * block.predictor_rank * (planted.D + planted.F)
    assert block.flops.int8_per_row == 0
    assert 0.9 * block.density.mean < block.candidates < 1.7 * block.density.mean
    (note,) = manifest.notes
    assert note.startswith("The predictors cost ")
    assert note.endswith(" % of quality on held-out data.")
    page = report.report.read_text()
    assert f"<td>{block.predictor_rank}</td>" in page
    (plan,) = report.document()["plan"]
    assert plan["predictor_recall"] == block.predictor_recall


def test_what_is_served_is_the_dense_output_but_for_what_the_recall_costs(planted_files, report):
    model = lazyneuron.load(report.path)
    x = planted.inputs(30, seed=9)  # not among the calibration data
    predicted = [model.predict({"x": x[i : i + 1]}) for i in range(len(x))]
    dense = graphs.run(planted_files[0], {"x": x})["y"]
    y = np.concatenate([p.outputs["y"] for p in predicted])
    assert np.linalg.norm(y - dense) < 0.01 * np.linalg.norm(dense)
    w = planted.weights(rank=6, noise=0.3)
    fired = int((x @ w["up"] + w["up_bias"] > 0).sum())
    (counts,) = np.sum([p.sparsity for p in predicted]).blocks
    assert 0.985 * fired <= counts.active <= fired
    (block,) = report.manifest.blocks
    own = x.shape[0] * x.shape[1] * block.flops.per_row
    assert counts.flops_executed == own + counts.candidates * 2 * planted.D + counts.active * 2 * planted.OUT
    assert counts.flops_executed < counts.flops_dense


def test_padding_costs_the_predictors_products_and_no_more(tmp_path):
    shapes = {"x": (graphs.TensorProto.FLOAT, ["batch", "length", planted.D])}
    shapes["row_mask"] = (graphs.TensorProto.INT64, ["batch", "length"])
    outputs = {"y": (graphs.TensorProto.FLOAT, ["batch", "length", planted.OUT])}
    outputs["used"] = (graphs.TensorProto.INT64, [])
    nodes = [*graphs.plain_nodes(), graphs.node("ReduceMax", "row_mask", "used", keepdims=0)]
    path = graphs.save(tmp_path / "m.onnx", nodes, planted.weights(rank=6), inputs=shapes, outputs=outputs)
    x = planted.inputs(60)
    mask = np.ones(x.shape[:2], np.int64)
    mask[:, 15:] = 0
    np.savez(tmp_path / "data.npz", x=np.where(mask[..., None] != 0, x, 1e4).astype(np.float32), row_mask=mask)
    found = export((path, tmp_path / "data.npz"), tmp_path / "m", tmp_path / "cache")
    (block,) = found.manifest.blocks
    assert block.density.rows == 54 * 15 - 2 * 15  # padding, for all its 1e4, is neither counted nor learned from
    assert block.predictor_recall >= 0.99
    model = lazyneuron.load(found.path)
    result = model.run([model.request({"x": x[:2], "row_mask": mask[:2]})])
    assert (result.tokens_real, result.tokens_padding) == (30, 10)
    assert result.flops_padding_computed == 10 * block.flops.per_row
    assert result.flops_padding_skipped == 10 * (block.flops.dense_per_row - block.flops.per_row)


def test_top_k_and_budgets_hold(planted_files, tmp_path, report):
    capped = export(planted_files, tmp_path / "m", report.path.parents[1] / "cache", top_k=4)
    model = lazyneuron.load(capped.path)
    x = planted.inputs(3, seed=9)
    assert model.predict({"x": x}).sparsity.blocks[0].active <= 4 * 60
    assert model.predict({"x": x}, budget=0.5).sparsity.blocks[0].active <= 2 * 60


def test_the_same_data_gives_the_same_artifact(planted_files, report, tmp_path):
    again = export(planted_files, tmp_path / "planted", tmp_path / "cache")  # a cache of its own: all is trained anew
    assert again.manifest.files == report.manifest.files


@pytest.mark.parametrize(("most", "mode"), [(1.0, "predictor"), (0.0, "certified")])
def test_the_quality_that_is_allowed_decides(planted_files, report, tmp_path, most, mode):
    found = export(planted_files, tmp_path / "m", report.path.parents[1] / "cache", max_quality_drop=most)
    assert found.manifest.blocks[0].mode == mode == found.manifest.mode
    error = found.manifest.quality.outputs[0].rms_rel_error
    if mode == "certified":
        assert error < 1e-6
        assert found.manifest.notes == (
            "enc.mlp is certified: its predictor would let the quality drop by more than 0.",
        )
    else:
        assert 1e-6 < error < most


def test_an_interrupted_export_leaves_only_the_cache(planted_files, report, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "compare_graphs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(planted_files, tmp_path / "models" / "m", tmp_path / "cache")
    assert not (tmp_path / "models").exists()
    assert [p.suffix for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [".npz"]
    monkeypatch.setattr("lazyneuron.exporters.predictors.training.train_block", None)
    resumed = export(planted_files, tmp_path / "models" / "m", tmp_path / "cache")
    assert resumed.manifest.blocks == report.manifest.blocks


def test_the_command_says_what_it_made(planted_files, report, tmp_path, capsys):
    from lazyneuron.cli import main

    cache = report.path.parents[1] / "cache"
    command = ["export", str(planted_files[0]), "--output", str(tmp_path / "m"), "--calibration", str(planted_files[1])]
    main([*command, "--mode", "predictor", "--cache", str(cache)])
    out = capsys.readouterr().out
    assert f"predictor of rank {report.manifest.blocks[0].predictor_rank}, held-out recall 99." in out
    main([*command, "--mode", "predictor", "--cache", str(cache), "--json"])
    assert json.loads(capsys.readouterr().out)["plan"][0]["mode"] == "predictor"
