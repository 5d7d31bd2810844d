import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.cost import Curve, Work
from lazyneuron.engine.errors import ConfigurationError
from tests.support.costs import linear_costs

SHARE = st.floats(0, 1)


def work(density=0.1, candidates=None, *, rows=64.0, d_model=256, d_ff=1024, d_out=None) -> Work:
    return Work(d_model, d_ff, d_out or d_model, rows, density, candidates)


def curve(**changes) -> Curve:
    values = {"mode": "exact", "d_model": 4, "d_ff": 8, "rows": 1, "density": (0.1, 1.0), "candidates": (1.0, 1.0)}
    return Curve(**values | {"seconds": (1.0, 2.0), "spread": (0.0, 0.0)} | changes)


def test_a_measured_point_is_given_back():
    costs = linear_costs()
    size = 256 * 1024 * 1e-9
    assert costs.seconds_per_row("dense", work()) == pytest.approx(2 * size)
    assert costs.seconds_per_row("int8", work()) == pytest.approx(size)
    assert costs.seconds_per_row("exact", work(0.5)) == pytest.approx(1.51 * size)
    assert costs.seconds_per_row("certified", work(0.5)) == pytest.approx((0.01 + 0.2 + 0.75 + 0.5) * size)


@given(density=st.floats(0, 2 / 3), extra=st.floats(1, 1.5))
def test_candidates_and_active_neurons_are_priced_apart(density, extra):
    costs = linear_costs(screen=0.2, candidate=0.8, active=0.3)
    candidates = min(density * extra, 0.7)  # where the fixed costs are linear in them
    expected = (0.01 + 0.2 + 0.8 * candidates + 0.3 * density) * 256 * 1024 * 1e-9
    assert costs.seconds_per_row("certified", work(density, candidates)) == pytest.approx(expected, rel=0.02)


@given(d_model=st.integers(1, 4096), d_ff=st.integers(1, 16384), rows=st.floats(1, 1e5), density=SHARE)
def test_other_sizes_cost_in_proportion(d_model, d_ff, rows, density):
    costs = linear_costs()
    asked = work(density, rows=rows, d_model=d_model, d_ff=d_ff)
    expected = costs.seconds_per_row("exact", work(density)) * d_model * d_ff / (256 * 1024)
    assert costs.seconds_per_row("exact", asked) == pytest.approx(expected)


def test_between_sizes_and_rows_the_price_is_between():
    cheap, dear = linear_costs(), linear_costs(unit=4e-9, shapes=((1024, 4096),), rows=(64, 512))
    costs = cheap.model_copy(update={"curves": cheap.curves + dear.curves})
    middle = work(d_model=512, d_ff=2048)
    price = costs.seconds_per_row("dense", middle) / (512 * 2048)
    assert price == pytest.approx(2 * math.sqrt(1e-9 * 4e-9))  # half-way in logarithms


@given(density=SHARE, candidates=SHARE, rows=st.floats(1, 1e4))
def test_a_price_is_always_positive(density, candidates, rows):
    for mode in ("dense", "exact", "certified"):
        assert linear_costs().seconds_per_row(mode, work(density, candidates, rows=rows)) > 0


def test_another_output_width_counts():
    costs = linear_costs()
    narrow = costs.seconds_per_row("dense", work(d_out=1))
    assert narrow == pytest.approx(costs.seconds_per_row("dense", work()) * 257 / 512)


def test_what_was_not_measured_is_said():
    with pytest.raises(ConfigurationError, match="no measurement of mode gate with float32 weights; measure again"):
        linear_costs().seconds_per_row("gate", work())
    with pytest.raises(ConfigurationError, match="mode exact with int8 weights"):
        linear_costs().seconds_per_row("exact", work(), weights="int8")


class TestCrossover:
    @staticmethod
    def of(mode, against, **prices):
        costs = linear_costs(**prices)
        return costs.crossover(next(c for c in costs.curves if c.mode == mode), against)

    def test_between(self):
        assert self.of("exact", "dense") == pytest.approx(0.99)
        # 0.21 + 1.5 a + a = 1
        assert self.of("certified", "int8") == pytest.approx(0.79 / 2.5)

    def test_never_and_always(self):
        assert self.of("exact", "int8") == 0.0
        assert self.of("exact", "dense", active=0.5) == 1.0

    def test_no_such_block(self):
        costs = linear_costs()
        alone = costs.model_copy(update={"curves": tuple(c for c in costs.curves if c.mode == "exact")})
        assert alone.crossover(alone.curves[0], "dense") is None


@pytest.mark.parametrize(
    "changes", [{"density": (0.5, 0.1)}, {"density": (0.1, 0.1)}, {"seconds": (1.0,)}, {"seconds": (0.0, 1.0)}]
)
def test_a_crooked_curve_is_refused(changes):
    with pytest.raises(ValueError, match=r"density must ascend|greater than 0"):
        curve(**changes)
