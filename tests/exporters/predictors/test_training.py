"""All of an export's predictors: rows in bounded files, and going on after an interruption."""

import dataclasses
import shutil

import numpy as np
import pytest

from lazyneuron.engine.errors import CalibrationError, ConfigurationError
from lazyneuron.exporters.cache import default_cache, entry, prune
from lazyneuron.exporters.measure import measure, open_checkpoint
from lazyneuron.exporters.predictors import rows as kept_rows
from lazyneuron.exporters.predictors import training
from lazyneuron.exporters.predictors.rows import BlockRows, collect, spread_of
from lazyneuron.exporters.progress import Silent
from lazyneuron.exporters.settings import ExportSettings
from tests.exporters import graphs
from tests.exporters.predictors import planted


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Two planted blocks, one after the other, and calibration data."""
    folder = tmp_path_factory.mktemp("stack")
    nodes, constants = [], {}
    for i, (x, y) in enumerate((("x", "middle"), ("middle", "y"))):
        parts = planted.weights(rank=6, noise=0.3, seed=i)
        if i == 0:
            parts |= {"down": parts["down"].repeat(2, axis=1) / 10, "down_bias": parts["down_bias"].repeat(2)}
        constants |= {f"{name}{i}": part for name, part in parts.items()}
        nodes += [
            graphs.node("MatMul", f"{x} up{i}", f"product{i}", name=f"layer{i}/up"),
            graphs.node("Add", f"product{i} up_bias{i}", f"pre{i}"),
            graphs.node("Relu", f"pre{i}", f"h{i}"),
            graphs.node("MatMul", f"h{i} down{i}", f"second{i}", name=f"layer{i}/down"),
            graphs.node("Add", f"second{i} down_bias{i}", y),
        ]
    shapes = ({"x": planted.D}, {"y": planted.OUT})
    inputs, outputs = (
        {name: (graphs.TensorProto.FLOAT, ["batch", "sequence", width]) for name, width in part.items()}
        for part in shapes
    )
    path = graphs.save(folder / "stack.onnx", nodes, constants, inputs=inputs, outputs=outputs)
    np.savez(folder / "data.npz", x=planted.inputs(60))
    return path, folder / "data.npz"


@pytest.fixture
def measured(stack, tmp_path):
    path, data = stack
    dense, ledger = open_checkpoint(str(path), None, tmp_path, Silent())
    (tmp_path / "scratch").mkdir()
    return measure(
        dense, ledger, data, scratch=tmp_path / "scratch", size=8, hold_out=True, progress=Silent(), rows=True
    )


@pytest.fixture
def settings(stack, tmp_path):
    return ExportSettings(mode="predictor", calibration=stack[1], cache=tmp_path / "cache")


@pytest.mark.parametrize("most_rows", [10**6, 300, 7])
def test_rows_are_the_blocks_inputs_and_what_fired(stack, measured, tmp_path, most_rows):
    folder = collect(measured, tmp_path / "kept", Silent(), most_rows=most_rows)
    x = np.load(stack[1])["x"].reshape(-1, planted.D)
    (block, _) = measured.ledger.blocks.values()
    found = BlockRows.read(folder, 0, block)
    # 52 of the 60 examples are calibrated on, which is from where the number of all rows is known.
    keep = min(1.0, most_rows * (52 / 60) / (52 * 20))
    place = np.flatnonzero(np.diff(np.floor(np.arange(len(x) + 1) * keep)))
    assert abs(len(place) - min(most_rows, len(x))) <= 1
    spread = spread_of(measured, 0)
    assert found.example.tolist() == (place // 20).tolist()
    np.testing.assert_allclose(found.x, spread.standard(x[place]), atol=4e-3)
    np.testing.assert_allclose(spread.mean, x[: 52 * 20].mean(0), atol=1e-5)
    pre = x[place] @ block.up.weight.read() + block.up.bias
    every = np.arange(len(found.x))
    assert ((pre > 0) == found.active(every))[np.abs(pre) > 1e-4].all()
    parts = [found.fit(), found.threshold(), found.test()]
    assert sorted(np.concatenate(parts).tolist()) == every.tolist()
    assert (found.example[found.test()] >= 52).all()
    bytes_a_row = 2 * planted.D + planted.F // 8 + 4
    assert sum(p.stat().st_size for p in folder.glob("*.0")) == len(found.x) * bytes_a_row


def test_what_was_done_is_not_done_again(measured, settings, monkeypatch):
    first = training.train_predictors(measured, settings, Silent())
    assert not list(settings.cache.rglob("rows*"))  # the rows are gone when all are done
    monkeypatch.setattr(training, "collect", None)
    second = training.train_predictors(measured, settings, Silent())
    for a, b in zip(first.values(), second.values(), strict=True):
        np.testing.assert_array_equal(a.second, b.second)
        assert (a.threshold, a.held_out) == (b.threshold, b.held_out)


def test_an_interrupted_training_goes_on(measured, settings, monkeypatch, tmp_path):
    whole = training.train_predictors(measured, settings, Silent())
    shutil.rmtree(settings.cache)
    done, train_block = [], training.train_block

    def noted(block, *args, **options):
        done.append(block.name)
        return train_block(block, *args, **options)

    def interrupted(block, *args, **options):
        if done:
            raise KeyboardInterrupt
        return noted(block, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train_predictors(measured, settings, Silent())
    left = sorted(p.name for p in settings.cache.glob("predictors/*/*"))
    assert len(left) == 2, left  # the rows, and the first block's predictor
    monkeypatch.setattr(kept_rows, "_write", None)  # the rows are not gone through again
    monkeypatch.setattr(training, "train_block", noted)
    resumed = training.train_predictors(measured, settings, Silent())
    assert done == ["layer0", "layer1"]
    for a, b in zip(whole.values(), resumed.values(), strict=True):
        np.testing.assert_array_equal(a.second, b.second)


def test_an_interrupted_collection_leaves_nothing(measured, settings, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kept_rows, "real_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_predictors(measured, settings, Silent())
    assert not list(settings.cache.glob("predictors/*/*"))


def test_a_damaged_file_is_trained_anew(measured, settings):
    whole = training.train_predictors(measured, settings, Silent())
    for path in settings.cache.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    again = training.train_predictors(measured, settings, Silent())
    key = next(iter(measured.ledger.blocks))
    np.testing.assert_array_equal(whole[key].second, again[key].second)


def test_other_settings_are_other_predictors(measured, settings, stack, tmp_path):
    first = training.train_predictors(measured, settings, Silent())
    other = ExportSettings(mode="predictor", calibration=stack[1], cache=settings.cache, predictor_rank=3)
    second = training.train_predictors(measured, other, Silent())
    assert [p.rank for p in second.values()] == [3, 3] != [p.rank for p in first.values()]


def test_only_what_is_asked_for_is_trained(measured, settings):
    key = list(measured.ledger.blocks)[1]
    assert list(training.train_predictors(measured, settings, Silent(), only=[key])) == [key]
    assert len(list(settings.cache.rglob("*.npz"))) == 1


def test_a_cache_that_cannot_be_written_is_said(measured, stack, tmp_path):
    (tmp_path / "taken").write_text("mine")
    settings = ExportSettings(mode="predictor", calibration=stack[1], cache=tmp_path / "taken")
    with pytest.raises(
        ConfigurationError, match=r"taken: cannot keep predictors there: .*; give another folder with --c"
    ):
        training.train_predictors(measured, settings, Silent())


def test_rows_that_do_not_go_by_examples_are_held_out_with_the_batch(measured):
    (block, _) = measured.ledger.blocks.values()
    assert kept_rows._example_of(block, 6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert kept_rows._example_of(dataclasses.replace(block, rows=("sequence", "batch")), 6, 3).tolist() == [2] * 6


def test_a_rank_above_the_width_is_refused(measured, settings, stack):
    other = ExportSettings(mode="predictor", calibration=stack[1], cache=settings.cache, predictor_rank=planted.D + 1)
    with pytest.raises(ConfigurationError, match="predictor_rank is 25; expected at most 24, the d_model of layer0"):
        training.train_predictors(measured, other, Silent())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((20, 20), "data.npz: 20 examples are too few for mode predictor; expected 20"),
        ((60, 2), "layer0: 9. rows to fit"),
    ],
)
def test_too_little_data_is_refused(stack, tmp_path, shape, message):
    np.savez(tmp_path / "data.npz", x=planted.inputs(*shape))
    dense, ledger = open_checkpoint(str(stack[0]), None, tmp_path, Silent())
    found = measure(
        dense, ledger, tmp_path / "data.npz", scratch=tmp_path, size=8, hold_out=True, progress=Silent(), rows=True
    )
    settings = ExportSettings(mode="predictor", calibration=tmp_path / "data.npz", cache=tmp_path / "cache")
    with pytest.raises(CalibrationError, match=message):
        training.train_predictors(found, settings, Silent())


def test_the_cache_is_keyed_by_content_and_forgets(tmp_path, monkeypatch):
    import os

    one, two = (entry(tmp_path, "predictors", {"rows": n}) for n in (1, 2))
    assert one != two
    assert one == entry(tmp_path, "predictors", {"rows": 1})
    for folder, age in ((one, 0), (two, 20 * 86400)):
        folder.mkdir(parents=True)
        os.utime(folder, (folder.stat().st_mtime - age,) * 2)
    prune(tmp_path, "predictors")
    assert (one.is_dir(), two.is_dir()) == (True, False)
    monkeypatch.setenv("LAZYNEURON_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("LAZYNEURON_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "lazyneuron"
