import numpy as np
import pytest

from lazyneuron.exporters.screens import ChannelSums, balanced

RNG = np.random.default_rng(2)
UP = RNG.standard_normal((40, 6))


def sums_of(x: np.ndarray, parts: int = 3) -> ChannelSums:
    sums = ChannelSums.empty(x.shape[1])
    for part in np.array_split(x, parts):
        sums.add(part.sum(0), (part**2).sum(0), len(part))
    return sums


def test_shifted_and_scaled_channels_have_the_weights_spread():
    x = RNG.standard_normal((500, 6)) * [1, 5, 0.1, 300, 1, 1] + [0, 3, -2, 1000, 0, 7]
    screen = balanced(sums_of(x), UP)
    np.testing.assert_allclose(screen.shift, x.mean(0), rtol=1e-5, atol=1e-6)
    codes = (x - screen.shift) / screen.scale
    spread = np.sqrt(np.mean(codes**2, axis=0))
    np.testing.assert_allclose(spread, np.sqrt(np.mean((UP * screen.scale) ** 2, axis=0)), rtol=1e-4)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((5, 6)),
        np.ones((5, 6)) * [1, 2, 3, 4, 5, 6],
        np.ones((1, 6)),
        np.zeros((0, 6)),
        RNG.standard_normal((50, 6)) * [1, 0, 1e-30, 1e30, 1, 1],
        np.full((3, 6), np.inf),
        np.full((3, 6), np.nan),
    ],
)
def test_any_data_gives_numbers_that_can_be_used(x):
    with np.errstate(invalid="ignore", over="ignore"):
        screen = balanced(sums_of(x, 1), UP)
    assert np.isfinite(screen.shift).all()
    assert np.isfinite(screen.scale).all()
    assert (screen.scale > 0).all()


def test_weights_that_are_zero_are_no_division_by_zero():
    up = UP.copy()
    up[:, 2] = 0
    assert (balanced(sums_of(RNG.standard_normal((50, 6))), up).scale > 0).all()
