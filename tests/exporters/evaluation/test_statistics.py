import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.exporters.evaluation.statistics import BINS, DENSE, SPARSE, WIDTH, Column, Groups, measure


def groups_of(dense, sparse, column=Column.CORRECT, most=2048):
    groups = Groups(most)
    for a, b in zip(dense, sparse, strict=True):
        sums = np.zeros((2, WIDTH))
        sums[:, Column.ROWS] = 1
        sums[DENSE, column], sums[SPARSE, column] = a, b
        groups.add(sums)
    return groups


@given(st.lists(st.integers(0, 9), min_size=1, max_size=70), st.sampled_from([2, 4, 8, 64]))
def test_groups_keep_the_sums_and_their_bound(values, most):
    groups = groups_of(values, values, most=most)
    assert len(groups.sums) <= most
    assert groups.examples == len(values)
    assert groups.sums[:, DENSE, Column.CORRECT].sum() == sum(values)
    assert groups.sums[:, DENSE, Column.ROWS].min() >= 1  # no group is empty


def test_the_interval_is_that_of_the_paired_difference():
    rng = np.random.default_rng(0)
    dense = rng.random(2000) < 0.9
    lost = rng.random(2000) < 0.05
    found = measure("accuracy", groups_of(dense, dense & ~lost), same=False)
    differences = (dense & ~lost).astype(float) - dense
    error = differences.std() / np.sqrt(2000)
    assert found.difference == pytest.approx(differences.mean())
    assert found.interval == pytest.approx(differences.mean() + 1.96 * error * np.array([-1, 1]), rel=0.1)
    assert found.loss == -found.difference


def test_the_interval_holds_what_it_should():
    """Of 200 samples from a known difference some 190 intervals hold it."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        dense = rng.random(150) < 0.8
        sparse = dense ^ (rng.random(150) < 0.2)  # flips one in five: 0.8 · 0.8 + 0.2 · 0.2
        low, high = measure("accuracy", groups_of(dense, sparse), same=False).interval
        held += low <= 0.68 - 0.8 <= high
    assert 180 <= held <= 199


def test_none_in_n_is_not_never():
    same = groups_of([1, 0] * 30, [1, 0] * 30)
    assert measure("accuracy", same, same=True).loss_interval == (0, 0)
    assert measure("accuracy", same, same=False).loss_interval == (-3 / 60, 3 / 60)


def test_a_loss_of_perplexity_is_a_share():
    found = measure("perplexity", groups_of([1.0, 1.0], [1.5, 1.5], Column.SURPRISE), same=False)
    assert (found.dense, found.sparse) == (pytest.approx(np.exp(1)), pytest.approx(np.exp(1.5)))
    assert found.loss == pytest.approx(np.exp(0.5) - 1)
    assert found.loss_interval == pytest.approx((np.exp(0.5) - 1, np.exp(0.5) - 1))


def test_what_is_no_number_is_none_in_json():
    found = measure("perplexity", groups_of([1e4], [1e4], Column.SURPRISE), same=False)
    assert np.isfinite(found.dense)
    infinite = measure("relative error", groups_of([0], [np.inf], Column.ERROR), same=False)
    assert infinite.document()["sparse"] is None


def test_bins_are_the_last_columns():
    assert int(Column.BIN) + BINS == WIDTH
