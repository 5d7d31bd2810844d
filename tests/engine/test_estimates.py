"""The tables agree with the cost model that they were made from."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyneuron.engine.cost import CostModel, Mode, Work
from lazyneuron.engine.cost_files import read_costs, shipped_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.estimates import BlockEstimate, BlockShape, estimate_block, seconds_per_row
from tests.support.costs import linear_costs

SHIPPED = read_costs(shipped_costs("avx512vnni"))
MODES: tuple[Mode, ...] = ("exact", "certified", "predictor", "gate")


def shape(mode: Mode, *, d_model: int = 768, d_ff: int = 3072, int8: bool = False) -> BlockShape:
    return BlockShape(mode, mode == "gate", d_model, d_ff, d_model, None, int8)


def direct(costs: CostModel, of: BlockShape, mode: Mode, rows: float, density: float, candidates: float) -> float:
    work = Work(of.d_model, of.d_ff, of.d_out, rows, density, candidates)
    return rows * seconds_per_row(costs, mode, work, gated=of.gated, int8=of.int8, rank=of.rank)


@cache
def table(mode: Mode) -> BlockEstimate:
    return estimate_block(SHIPPED, shape(mode))


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    rows=st.integers(1, 100_000),
    density=st.floats(0, 1),
    more=st.floats(0, 1),
)
def test_one_call_is_what_the_cost_model_says(mode: Mode, rows: int, density: float, more: float) -> None:
    candidates = 1.0 if mode == "exact" else density + more * (1 - density)
    dense, executed = table(mode).seconds(np.array([rows], float), np.array([density]), np.array([candidates]))
    assert dense == pytest.approx(direct(SHIPPED, shape(mode), "dense", rows, density, candidates), rel=1e-6)
    # Rows and densities are measured ones at the tables' nodes, candidates nearly so.
    assert executed == pytest.approx(direct(SHIPPED, shape(mode), mode, rows, density, candidates), rel=0.1)


def test_calls_add_up() -> None:
    made = table("certified")
    rows, density, candidates = np.array([1.0, 7.0, 300.0]), np.array([0.02, 0.1, 0.04]), np.array([0.05, 0.1, 0.2])
    each = [made.seconds(*(a[i : i + 1] for a in (rows, density, candidates))) for i in range(3)]
    assert made.seconds(rows, density, candidates) == pytest.approx(tuple(np.sum(each, axis=0)))


def test_a_block_of_another_size_between_the_measured_ones() -> None:
    middle = shape("certified", d_model=512, d_ff=2048)
    _, executed = estimate_block(SHIPPED, middle).seconds(np.array([20.0]), np.array([0.05]), np.array([0.09]))
    assert executed == pytest.approx(direct(SHIPPED, middle, "certified", 20, 0.05, 0.09), rel=0.05)


def test_int8_makes_dense_products_cheaper_and_a_gate_in_the_graph_is_paid_for() -> None:
    costs = linear_costs()
    work = Work(256, 1024, 256, 8, 0.5, 1.0)
    plain = seconds_per_row(costs, "exact", work, gated=False)
    assert seconds_per_row(costs, "dense", work, gated=False, int8=True) == pytest.approx(
        seconds_per_row(costs, "dense", work, gated=False) / 2
    )
    assert seconds_per_row(costs, "exact", work, gated=False, int8=True) < plain
    work = Work(768, 3072, 768, 8, 0.05, 0.1)
    gate = SHIPPED.seconds_per_row("dense", work, gated=True) - SHIPPED.seconds_per_row("dense", work)
    for mode, share in (("exact", 1.0), ("predictor", 0.1)):
        without, having = (seconds_per_row(SHIPPED, mode, work, gated=gated) for gated in (False, True))
        assert having - without == pytest.approx(share * gate)


def test_what_was_not_measured_is_said() -> None:
    with pytest.raises(ConfigurationError, match="no measurement of mode gate"):
        estimate_block(linear_costs(), shape("gate"))
