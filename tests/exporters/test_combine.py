from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.exporters import combine
from lazyneuron.exporters.combine import cheapest_within, frontier

# Eighths, whose sums are exact, so that brute force adds up to the same in any order.
SHARES = st.integers(0, 40).map(lambda n: n / 8)
BLOCKS = st.lists(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=5), min_size=1, max_size=5)


def brute_force(options, most):
    """The cheapest summed cost of all combinations that lose at most so much; None if none does."""
    fitting = [sum(c for c, _ in picks) for picks in product(*options) if sum(d for _, d in picks) <= most]
    return min(fitting, default=None)


@given(BLOCKS, SHARES, SHARES)
def test_it_is_as_cheap_as_the_best_of_all_combinations(options, most, less):
    found = frontier(options, most)
    for allowed in {most, min(most, less)}:
        expected = brute_force(options, allowed)
        fitting = [c for c in found if c.loss <= allowed]
        assert (expected is None) == (not fitting)
        if fitting:
            best = cheapest_within(found, allowed)
            assert best.cost == expected
            picked = [block[i] for block, i in zip(options, best.picks, strict=True)]
            assert (best.cost, best.loss) == (sum(c for c, _ in picked), sum(d for _, d in picked))


@given(BLOCKS, SHARES)
def test_no_combination_of_a_frontier_beats_another(options, most):
    found = frontier(options, most)
    assert all(a.loss < b.loss and a.cost > b.cost for a, b in pairwise(found))


def test_many_blocks_are_thinned_and_nearly_the_best(monkeypatch):
    options = [[(1.0, 0.0), (0.9 - 0.01 * i, 0.01 + 0.001 * i), (0.5, 0.05 + 0.003 * i)] for i in range(24)]
    exact = cheapest_within(frontier(options, 1.0), 0.5)
    monkeypatch.setattr(combine, "_MOST", 200)
    thinned = frontier(options, 1.0)
    assert len(thinned) <= 201
    near = cheapest_within(thinned, 0.5)
    assert near.loss <= 0.5
    assert near.cost == pytest.approx(exact.cost, rel=0.02)


def test_where_nothing_fits_the_least_loss_is_taken():
    assert frontier([[(1.0, 2.0)]], 1.0) == []
    assert cheapest_within(frontier([[(1.0, 0.5), (2.0, 0.25)]], 1.0), 0.0).loss == 0.25
