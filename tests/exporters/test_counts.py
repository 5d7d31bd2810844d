"""What is added up beside the histogram, against the plain computation over all data at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from lazyneuron.exporters.counts import FIRST_POSITIONS, SHARED, Examples, Positions, Unions, hottest_shares

D_FF = 40
EXAMPLES = st.lists(st.lists(st.integers(0, D_FF), min_size=1, max_size=6), min_size=3, max_size=12)


def sums(examples):
    return np.array([sum(e) for e in examples]), np.array([len(e) for e in examples])


@given(EXAMPLES, st.integers(1, 3))
def test_the_interval_is_the_ratio_estimators(examples, cut):
    found, other = Examples(), Examples()
    found.add(*sums(examples[:cut]))
    other.add(*sums(examples[cut:]))
    found.merge(other)
    active, rows = sums(examples)
    mean, m = active.sum() / rows.sum(), len(examples)
    deviation = np.sqrt(m / (m - 1) * np.sum((active - mean * rows) ** 2)) / rows.sum() / D_FF
    half = student.ppf(0.975, m - 1) * deviation
    expected = max(mean / D_FF - half, 0), min(mean / D_FF + half, 1)
    assert found.interval(D_FF) == pytest.approx(expected, abs=0.011 * half + 1e-9)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6, 11, 30, 1001])
def test_few_examples_widen_it_as_student_says(m):
    active = 400 + np.arange(m) % 2 * 10
    rows = np.full(m, 50)
    examples = Examples()
    examples.add(active, rows)
    low, high = examples.interval(D_FF)
    deviation = np.std(active / rows / D_FF, ddof=1) / np.sqrt(m)
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, m - 1) * deviation, rel=0.011)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        share = rng.beta(2, 18, size=25)  # examples differ, and their rows resemble each other
        rows = rng.integers(5, 40, size=25)
        examples = Examples()
        examples.add(rng.binomial(rows * D_FF, share), rows)
        low, high = examples.interval(D_FF)
        held += low <= 0.1 <= high
    assert 0.90 < held / 400 < 0.98


def test_one_example_has_no_interval_and_an_empty_one_does_not_count():
    examples = Examples()
    examples.add(np.array([7, 0]), np.array([2, 0]))
    assert (examples.count, examples.interval(D_FF)) == (1, None)


@given(st.lists(st.tuples(st.integers(0, D_FF), st.integers(0, 3000)), min_size=1, max_size=30))
def test_positions_are_grouped(rows):
    active, position = (np.array(column) for column in zip(*rows, strict=True))
    positions = Positions()
    positions.add(active, position)
    ends = [*FIRST_POSITIONS[1:], np.inf]
    for group, (first, end) in enumerate(zip(FIRST_POSITIONS, ends, strict=True)):
        inside = (position >= first) & (position < end)
        assert (positions.rows[group], positions.active[group]) == (inside.sum(), active[inside].sum())


def test_a_union_that_no_batch_was_large_enough_for_is_not_known():
    unions = Unions()
    unions.add([np.array([10, 30]), np.array([], np.int32)])
    assert unions.shares(D_FF) == dict(zip(SHARED, (0.5, None), strict=True))


def test_the_hottest_neurons_are_counted_from_the_top():
    fired = np.zeros(200, np.int64)
    fired[[3, 50, 90]] = 60, 30, 10  # 1 % of 200 neurons are two
    assert hottest_shares(fired) == {1: 0.9, 10: 1.0, 50: 1.0}
    assert hottest_shares(np.ones(10, np.int64)) == {1: 0.1, 10: 0.1, 50: 0.5}
    assert hottest_shares(np.zeros(4, np.int64)) == {1: 0.0, 10: 0.0, 50: 0.0}
