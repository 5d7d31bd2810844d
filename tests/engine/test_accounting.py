import pytest

from lazyneuron.engine.accounting import Sparsity, block_counts
from lazyneuron.engine.artifact import BlockFlops, BlockPlan, Density

DENSITY = Density(rows=1, mean=0, p50=0, p90=0, p95=0, p99=0, never_active=0)


def block(**flops):
    return BlockPlan(
        name="mlp",
        operator="SparseDown",
        mode="exact",
        activation="relu",
        d_model=10,
        d_ff=100,
        d_out=10,
        density=DENSITY,
        flops=BlockFlops(**({"dense_per_row": 4000, "per_candidate": 20, "per_active": 20} | flops)),
        rows=("batch",),
        active_output="active",
    )


def test_an_exact_block_does_the_up_projection_and_the_active_part_of_the_down():
    counts = block_counts(block(), rows=3, active=30)
    assert (counts.neurons, counts.candidates, counts.active) == (300, 300, 30)
    assert counts.flops_dense == 3 * (2 * 10 * 100 + 2 * 100 * 10)
    assert counts.flops_executed == 3 * 2 * 10 * 100 + 30 * 2 * 10
    assert counts.density == pytest.approx(0.1)


def test_a_screened_block_does_its_screen_and_its_candidates():
    counts = block_counts(block(per_row=2000, int8_per_row=2000), rows=3, active=30, candidates=45)
    assert counts.flops_executed == 3 * 2000 + 45 * 20 + 30 * 20


def test_counts_add():
    total = Sparsity((block_counts(block(), rows=1, active=5),)) + Sparsity((block_counts(block(), rows=2, active=7),))
    assert total.blocks == (block_counts(block(), rows=3, active=12),)
    assert total.flops_saved == total.flops_dense - total.flops_executed
    assert total.density == pytest.approx(12 / 300)


def test_nothing_is_no_division_by_zero():
    assert Sparsity((block_counts(block(), rows=0, active=0),)).density == 0.0


def test_counts_of_different_blocks_do_not_add():
    other = block_counts(block().model_copy(update={"name": "other"}), rows=1, active=1)
    with pytest.raises(ValueError, match="'mlp' and 'other'"):
        block_counts(block(), rows=1, active=1) + other
