import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.exporters.cuts import choose_cut, plain_cut

F, OUT = 24, 5


def planted(seed: int, rows: int = 200, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values around a mean of each neuron's own, and a down projection."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(F) * spread + rng.standard_normal((rows, F))
    return values.astype(np.float32), rng.standard_normal((F, OUT)).astype(np.float32)


def kept_of(values, cut):
    """Which neurons a cut keeps, row by row."""
    size = np.abs(values - (0 if cut.centre is None else cut.centre)).astype(np.float32)
    kept = np.zeros(size.shape, bool)
    for row, sizes in enumerate(size):
        above = np.flatnonzero(sizes > np.float32(cut.threshold))
        largest = above[np.argsort(-sizes[above], kind="stable")]
        kept[row, largest[: cut.top_k or F]] = True
    return kept


def error_of(values, down, cut):
    """The output's error in float64, as the cut's docstring defines it."""
    values, down = values.astype(np.float64), down.astype(np.float64)
    centre = np.zeros(F) if cut.centre is None else cut.centre.astype(np.float64)
    y = np.where(kept_of(values, cut), values - centre, 0) @ down + centre @ down
    return np.linalg.norm(y - values @ down) / np.linalg.norm(values @ down)


@given(
    seed=st.integers(0, 2**31),
    share=st.one_of(st.none(), st.floats(0.02, 0.98)),
    top_k=st.integers(0, F),
    spread=st.floats(0, 4),
)
def test_density_and_error_are_brute_force(seed, share, top_k, spread):
    values, down = planted(seed, spread=spread)
    for cut in choose_cut(values, down, share=share, top_k=top_k):
        if cut is None:
            continue
        kept = kept_of(values, cut)
        assert cut.density.mean == pytest.approx(kept.mean(), abs=1e-9)
        assert cut.error == pytest.approx(error_of(values, down, cut), rel=1e-4, abs=1e-6)
        if share is not None and not top_k:  # no two values are the same
            assert kept.sum() == pytest.approx(share * kept.size, abs=1)


@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.9))
def test_a_centre_is_chosen_only_where_it_brings_the_output_nearer(seed, share):
    values, down = planted(seed, spread=2.0)
    plain, centred = choose_cut(values, down, share=share)
    assert plain.centre is None
    if centred is not None:
        assert centred.error < 0.98 * plain.error


def test_what_hardly_moves_is_recovered_by_its_mean():
    values, down = planted(0, spread=3.0)
    values[:, : F // 2] = values[0, : F // 2] + 0.01 * values[:, : F // 2]
    plain, centred = choose_cut(values, down, share=0.4)
    assert centred is not None
    assert centred.error < 0.2 * plain.error
    np.testing.assert_allclose(centred.centre[: F // 2], values[:, : F // 2].mean(axis=0), atol=0.02)


def test_values_without_a_mean_need_no_centre():
    values, down = planted(0, rows=2000, spread=0.0)
    assert choose_cut(values, down, share=0.3)[1] is None


def test_a_given_threshold_is_measured():
    values, down = planted(1)
    cut = plain_cut(values, down, 0.75, top_k=9)
    assert (cut.threshold, cut.top_k, cut.centre) == (0.75, 9, None)
    assert cut.density.mean == pytest.approx(kept_of(values, cut).mean())
    assert cut.error == pytest.approx(error_of(values, down, cut), rel=1e-4)


def test_no_rows_and_all_of_them():
    values, down = planted(2)
    empty, none = choose_cut(values[:0], down, share=0.5)
    assert (empty.threshold, empty.density.rows, empty.error, none) == (0.0, 0, 0.0, None)
    zeros, _ = choose_cut(np.zeros_like(values), down, share=0.5)
    assert (zeros.threshold, zeros.density.mean, zeros.error) == (0.0, 0.0, 0.0)
