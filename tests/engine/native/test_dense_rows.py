"""SparseDown on rows that keep most of their neurons: a tile of them takes another path, with the same result."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyneuron.engine import reference
from tests.engine.native import operators, strategies
from tests.engine.native.operators import Case, assert_close

TYPES = [np.float32, np.float16, np.int8]


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A batch of rows of very different densities."""

    case: Case
    densities: list[float]


def mixed(seed: int, densities: list[float], neurons: int, columns: int, dtype: type) -> Case:
    """Make one row a density; a density of 0 or 1 is meant to the letter."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.standard_normal((len(densities), neurons))) + 1e-3
    pre = np.where(rng.random(size.shape) < np.array(densities)[:, None], size, -size).astype(np.float32)
    arrays = {"pre": pre, "down": strategies.weights(seed + 1, (neurons, columns), dtype)}
    arrays["down_bias"] = strategies.values(seed + 2, (columns,), ties=False)
    arrays["down_scale"] = rng.uniform(0.01, 2, neurons).astype(np.float32)
    return Case(arrays, {})


@st.composite
def batches(draw: st.DrawFn) -> Mixed:
    """Up to 80 rows (more than a tile), dense ones common, of any odd shape and weight type."""
    densities = draw(st.lists(st.sampled_from([0.0, 0.03, 0.3, 0.39, 0.41, 0.6, 0.9, 1.0]), min_size=1, max_size=80))
    neurons, columns = draw(strategies.SIZES), draw(strategies.SIZES)
    case = mixed(draw(strategies.SEEDS) // 2, densities, neurons, columns, draw(st.sampled_from(TYPES)))
    return Mixed(case, densities)


def assert_equals_rows_alone(isa: str, case: Case, y: np.ndarray, rows: list[int]) -> None:
    """A row alone is never dense enough for the other path: it tells what the lists give."""
    pre = case.arrays["pre"]
    for row in rows:
        alone, _ = case.run(isa, pre=pre[row : row + 1])
        np.testing.assert_array_equal(y[row].view(np.uint32), alone[0].view(np.uint32))


@settings(max_examples=60)
@given(batch=batches(), threads=st.sampled_from([1, 2]))
def test_dense_and_sparse_rows_in_one_batch(isa: str, batch: Mixed, threads: int) -> None:
    y, active = batch.case.run(isa, threads)
    expected, count = batch.case.expected()
    np.testing.assert_array_equal(active, count)
    assert_close(batch.case, y, expected)
    densest = sorted(range(len(batch.densities)), key=lambda r: -batch.densities[r])
    assert_equals_rows_alone(isa, batch.case, y, densest[:3] + densest[-1:])


@pytest.mark.parametrize("dtype", TYPES)
def test_every_density_is_independent_of_its_batch(isa: str, dtype: type) -> None:
    densities = [r / 20 for r in range(21)] * 4
    case = mixed(0, densities, 2100, 131, dtype)  # more than one stretch of coefficients
    y, _ = case.run(isa)
    assert_close(case, y, case.expected()[0])
    assert_equals_rows_alone(isa, case, y, list(range(0, len(densities), 4)))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_weights(isa: str, value: float, dtype: type, constant: bool) -> None:
    case = mixed(1, [0.9] * 13, 65, 70, dtype)
    case.arrays["down"][64, 69] = value
    case.arrays["pre"][::2, 64] = -1  # these rows have nothing to do with it
    case.arrays["pre"][1::2, 64] = 1
    if constant:
        y, _ = case.run(isa)
    else:
        y = run_with_fed_weights(isa, case)
    np.testing.assert_array_equal(np.isfinite(y[::2]), True)
    np.testing.assert_array_equal(y[1::2, 69], np.float32(value))
    np.testing.assert_array_equal(np.isfinite(y[1::2, :69]), True)


def run_with_fed_weights(isa: str, case: Case) -> np.ndarray:
    """Run with all inputs fed, so that the weights are packed, and looked at, in the call."""
    with operators.forced(isa):
        opened = operators.session(operators.model(case.arrays, {}))
    (y,) = opened.run(["y"], case.arrays)
    return np.asarray(y)


def test_infinite_values_and_nan_among_dense_rows(isa: str) -> None:
    case = mixed(2, [0.8] * 20, 130, 67, np.float32)
    case.arrays["pre"][3, 5] = np.inf
    case.arrays["pre"][4, 7] = np.nan
    case.arrays["pre"][9, :2] = np.inf  # weights of both signs: infinities and NaN
    budget = np.ones(20, np.float32)
    budget[11] = 0
    case.arrays["budget"] = budget
    y, active = case.run(isa)
    expected, count = reference.sparse_down(**case.arrays)
    np.testing.assert_array_equal(active, count)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    np.testing.assert_array_equal(np.isfinite(y), finite)
    np.testing.assert_array_equal(y[11], 0)
