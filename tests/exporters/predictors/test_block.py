"""One block's training, on planted data."""

import dataclasses

import numpy as np
import pytest

from lazyneuron.exporters.predictors.block import MOST_RATIO, BlockSettings, train_block
from lazyneuron.exporters.predictors.predictor import Spread
from lazyneuron.exporters.predictors.tuning import TuningSettings
from lazyneuron.exporters.progress import Silent
from tests.exporters.predictors import planted

UNTUNED = TuningSettings(epochs=0)


class Heard:
    """Keeps what it is told."""

    def __init__(self):
        self.steps, self.units = [], 0

    def step(self, text, total=None):
        self.steps.append((text, total))

    def advance(self, units=1):
        self.units += units


def trained(folder, constants, *, examples=200, **settings):
    block = planted.block_of(planted.save(folder, constants))
    rows, spread = planted.rows_of(planted.inputs(examples), constants, examples * 9 // 10)
    progress = Heard()
    predictor = train_block(block, rows, spread, BlockSettings(**settings), progress=progress, what="it")
    return predictor, rows, spread, progress


def test_a_block_of_low_rank_needs_no_more_than_its_active_neurons(tmp_path):
    predictor, *_ = trained(tmp_path, planted.weights(rank=6))
    assert predictor.rank == 6
    assert predictor.held_out.recall >= 0.99
    assert predictor.held_out.energy >= 0.999
    assert predictor.held_out.ratio < 1.05


@pytest.mark.parametrize("recall", [0.9, 0.99])
def test_the_recall_is_kept_on_held_out_rows(tmp_path, recall):
    constants = planted.weights(rank=6, noise=0.4)
    predictor, rows, spread, _ = trained(tmp_path, constants, recall=recall, rank=6)
    assert predictor.held_out.recall >= recall
    # It is what raw input gives, counted here anew.
    test = rows.test()
    x = rows.inputs(test) * spread.deviation + spread.mean
    candidate, fired = predictor.scores(x) > predictor.threshold, rows.active(test)
    assert predictor.held_out.recall == pytest.approx(candidate[fired].mean(), abs=2e-3)
    assert predictor.held_out.ratio == pytest.approx(candidate.sum() / fired.sum(), rel=5e-3)


def test_tuning_needs_fewer_candidates_for_the_same_recall(tmp_path):
    constants = planted.weights(rank=6, noise=0.4)
    before, *_ = trained(tmp_path, constants, rank=6, tuning=UNTUNED)
    after, *_, progress = trained(tmp_path, constants, rank=6)
    epochs = TuningSettings().epochs
    assert progress.steps == [("it: choosing its rank", None), ("it: tuning rank 6", epochs)]
    assert progress.units == epochs
    assert after.held_out.ratio < before.held_out.ratio


def test_the_rank_is_raised_until_the_candidates_are_few(tmp_path):
    constants = planted.weights(rank=6, noise=0.5)
    low, *_ = trained(tmp_path, constants, rank=6)
    assert low.held_out.ratio > MOST_RATIO
    chosen, *_ = trained(tmp_path, constants)
    assert chosen.rank > 6
    assert chosen.held_out.ratio < MOST_RATIO * 1.1


def test_the_same_seed_gives_the_same_predictor(tmp_path):
    constants = planted.weights(rank=6, noise=0.4)
    first, second, other = (
        trained(tmp_path, constants, rank=6, tuning=TuningSettings(seed=seed))[0] for seed in (0, 0, 1)
    )
    for name in ("first", "second", "offset"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.threshold == second.threshold
    assert not np.array_equal(first.second, other.second)


def test_a_models_own_top_k_is_what_is_predicted(tmp_path, monkeypatch):
    """Rows are not mixed then: which neurons of a mixed row are among the k largest, no projection tells."""
    constants = planted.weights(rank=6, noise=0.4)
    block = dataclasses.replace(planted.block_of(planted.save(tmp_path, constants)), top_k=5)
    x = planted.inputs(200)
    rows, spread = planted.rows_of(x, constants, 180)
    pre = x.reshape(-1, planted.D) @ constants["up"] + constants["up_bias"]
    fired = (pre > 0) & (pre >= np.sort(pre, axis=1)[:, -5:-4])
    rows = dataclasses.replace(rows, fired=np.packbits(fired, axis=1))
    monkeypatch.setattr("lazyneuron.exporters.predictors.tuning._mixed", None)
    gated = train_block(block, rows, spread, BlockSettings(rank=12), progress=Silent(), what="it")
    assert gated.held_out.recall >= 0.99
    assert gated.held_out.active == pytest.approx(fired[180 * 20 :].mean())


def test_input_that_is_not_finite_has_none(tmp_path):
    constants = planted.weights(rank=6)
    block = planted.block_of(planted.save(tmp_path, constants))
    rows, _ = planted.rows_of(planted.inputs(50), constants, 45)
    spread = Spread.of(np.full(planted.D, np.inf), np.full(planted.D, np.inf), 900)
    assert train_block(block, rows, spread, BlockSettings(), progress=Silent(), what="it") is None


def test_a_block_that_never_fires_has_none(tmp_path):
    constants = planted.weights(rank=6)
    constants["up_bias"] = np.full(planted.F, -1e4, np.float32)
    assert trained(tmp_path, constants, examples=50)[0] is None


def test_neurons_that_never_fired_and_channels_that_never_moved_are_no_trouble(tmp_path):
    constants = planted.weights(rank=6)
    constants["up_bias"][:50] = -1e4
    constants["up"][:, 60] = 0
    constants["up"][3] = 0
    predictor, *_ = trained(tmp_path, constants)
    assert np.isfinite(predictor.second).all()
    assert np.isfinite(predictor.offset).all()
    assert predictor.held_out.recall >= 0.99
