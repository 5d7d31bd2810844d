import numpy as np
import pytest

from lazyneuron.exporters.predictors.closed_form import Moments, ReducedRank
from lazyneuron.exporters.predictors.predictor import Spread

RNG = np.random.default_rng(3)
D, F = 10, 40


def moments_of(x: np.ndarray, parts: int = 3) -> Moments:
    return Moments.of((part.astype(np.float32) for part in np.array_split(x, parts)), x.shape[1])


def test_moments_are_numpys():
    x = RNG.standard_normal((500, D)).astype(np.float32) + 0.5
    found = moments_of(x)
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(x.T, bias=True), atol=1e-5)


def test_a_map_of_low_rank_is_recovered():
    x = (RNG.standard_normal((800, D)) @ RNG.standard_normal((D, D))).astype(np.float32)
    up = (RNG.standard_normal((D, 3)) @ RNG.standard_normal((3, F))).astype(np.float32)
    bias = RNG.standard_normal(F).astype(np.float32)
    closed = ReducedRank(moments_of(x), up, bias)
    scores = closed.predictor(3).scores(x) / closed.scale(3)
    pre = x @ up + bias
    np.testing.assert_allclose(scores, pre, atol=2e-4 * np.abs(pre).max())
    assert np.abs(closed.predictor(2).scores(x) / closed.scale(2) - pre).max() > 0.1


@pytest.mark.parametrize("rank", [1, 4, 9, D])
def test_no_map_of_that_rank_is_closer(rank):
    """The least squares of reduced rank are the tail of the pre-activations' principal components."""
    x = (RNG.standard_normal((2000, D)) @ RNG.standard_normal((D, D))).astype(np.float32)
    up, bias = RNG.standard_normal((D, F)).astype(np.float32), np.zeros(F, np.float32)
    closed = ReducedRank(moments_of(x), up, bias)
    pre = x.astype(np.float64) @ up
    left = np.linalg.svd(pre - pre.mean(0), compute_uv=False)[rank:]
    error = np.square(closed.predictor(rank).scores(x) / closed.scale(rank) - pre).sum()
    assert error == pytest.approx(np.square(left).sum(), rel=1e-3, abs=1e-4 * np.square(pre).sum())


def test_neurons_and_channels_that_never_move_give_numbers():
    x = RNG.standard_normal((300, D)).astype(np.float32)
    x[:, 4] = 0
    up = RNG.standard_normal((D, F)).astype(np.float32)
    up[:, 7] = 0
    bias = np.linspace(-1, 1, F, dtype=np.float32)
    scores = ReducedRank(moments_of(x), up, bias).predictor(5).scores(x)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, 7], bias[7], rtol=1e-5)


def test_a_predictor_of_standardised_rows_does_the_same_on_raw_ones():
    x = (RNG.standard_normal((400, D)) * np.geomspace(0.01, 100, D) + np.linspace(-50, 50, D)).astype(np.float32)
    spread = Spread.of(x.sum(0, dtype=np.float64), np.square(x, dtype=np.float64).sum(0), len(x))
    standard = spread.standard(x)
    np.testing.assert_allclose(standard.std(0), 1, rtol=1e-3)
    predictor = ReducedRank(
        moments_of(standard), RNG.standard_normal((D, F)).astype(np.float32), np.zeros(F)
    ).predictor(4)
    np.testing.assert_allclose(predictor.on_raw(spread).scores(x), predictor.scores(standard), atol=2e-2)
    assert predictor.operations == 2 * 4 * (D + F)
