from dataclasses import replace

import numpy as np
import pytest

from lazyneuron.engine.artifact import Density
from lazyneuron.exporters.reports import BlockSparsity
from lazyneuron.exporters.verdict import judge


def block(mean: float, *, activation: str = "relu", **ways: bool) -> BlockSparsity:
    shares = dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), mean)
    density = Density(rows=7, never_active=0.0, **shares)
    return BlockSparsity("mlp", activation, 4, 16, 4, 0, density, np.zeros(17, np.int64), **ways)


def test_what_has_few_active_neurons_can_be_helped():
    verdict = judge([block(0.1, screenable=True), block(0.1, screenable=True)])
    assert verdict.helps
    assert (verdict.density, verdict.saved_exact, verdict.saved_certified) == pytest.approx((0.1, 0.45, 0.9))
    assert verdict.sentence == (
        "Skipping can help: 10.0% of the neurons are active. In mode exact at most 45.0% of the MLP blocks' operations "
        "need not be done, and in mode certified at most 90.0%; outputs stay the same."
    )


def test_the_screens_own_candidates_count_where_they_were_measured():
    screened = replace(block(0.1, screenable=True), candidates=0.3)
    assert judge([screened]).saved_certified == pytest.approx(0.45 + 0.35)


def test_some_blocks_may_be_helped():
    verdict = judge([block(0.1), block(1.0, activation="gelu")])
    assert verdict.helps
    assert "Skipping can help in 1 of 2 blocks: 55.0% of the neurons are active" in verdict.sentence
    assert "certified" not in verdict.sentence


def test_a_gates_zeros_spare_the_up_projection_too():
    assert judge([block(0.1, gated=True, gating=True)]).saved_exact == pytest.approx(0.6)
    assert judge([block(0.1, gated=True)]).saved_exact == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([block(0.999, activation="gelu")], "99.9% of the neurons are active (gelu has hardly a zero), at most 0.1%"),
        (
            [block(1.0, activation="silu"), block(1.0, activation="gelu")],
            "100.0% of the neurons are active (gelu and silu have hardly a zero), at most 0.0%",
        ),
        ([block(0.8)], "80.0% of the neurons are active, at most 10.0%"),
    ],
)
def test_what_cannot_be_helped_is_told_the_numbers(blocks, why):
    verdict = judge(blocks)
    assert not verdict.helps
    assert f"Exact skipping cannot help this checkpoint: {why} of the MLP blocks' operations" in verdict.sentence
    assert "below a density of 50%. export --top-k K" in verdict.sentence


def test_nothing_found():
    verdict = judge([])
    assert (verdict.helps, verdict.saved_exact) == (False, 0.0)
    assert verdict.document()["sentence"].startswith("No MLP block was found")
