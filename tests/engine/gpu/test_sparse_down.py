"""The GPU's SparseDown against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.gpu.cases import cut, in_bfloat16
from tests.engine.gpu.interpreter import Interpreter
from tests.engine.native import strategies
from tests.engine.native.operators import Case, assert_close
from tests.engine.native.test_sparse_down import EXACT, SMOOTH, clear_of_edges


def run(gpu: Interpreter, case: Case, **options: object) -> tuple[np.ndarray, np.ndarray]:
    y, active = gpu("sparse_down", case.arrays, **case.attributes, **options)
    assert active.dtype == np.int32
    return y, active


def check(case: Case, outputs: tuple[np.ndarray, np.ndarray]) -> None:
    expected, count = case.expected()
    np.testing.assert_array_equal(outputs[1], count)
    assert_close(case, outputs[0], expected)


@settings(max_examples=12)
@given(case=strategies.cases(activations=EXACT), bf16=st.booleans(), programs=st.sampled_from([1, 9]))
def test_matches_the_reference(gpu: Interpreter, case: Case, bf16: bool, programs: int) -> None:
    case = cut(case, 2)
    check(case, run(gpu, case, bf16=in_bfloat16(case, ("down",)) if bf16 else (), programs=programs))


@settings(max_examples=7)
@given(case=strategies.cases(activations=SMOOTH))
def test_matches_the_reference_with_smooth_activations(gpu: Interpreter, case: Case) -> None:
    case = cut(case, 2)
    if not clear_of_edges(case):
        case = Case(case.arrays, {**case.attributes, "top_k": 0, "threshold": 0.0})
    check(case, run(gpu, case))


@settings(max_examples=10)
@given(case=strategies.cases(special=True, activations=EXACT))
def test_special_values(gpu: Interpreter, case: Case) -> None:
    case = cut(case, 2)
    check(case, run(gpu, case))


@settings(max_examples=4)
@given(case=strategies.cases(special=True, activations=EXACT), bf16=st.booleans())
def test_tiles_of_rows_match_the_reference(gpu: Interpreter, case: Case, bf16: bool) -> None:
    case = cut(case, 18)  # a tile has 16
    check(case, run(gpu, case, by_tiles=True, bf16=in_bfloat16(case, ("down",)) if bf16 else ()))


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_the_compiled_tiles_do_the_same(gpu: Interpreter, dtype: type) -> None:
    # A block of selection has 1024 neurons, one of the down projection 32 or 64; eight segments, of two or three.
    arrays = {
        "pre": strategies.values(0, (1, 2100), ties=True),
        "down": strategies.weights(1, (2100, 66), dtype),
        "down_scale": np.abs(strategies.values(2, (2100,), ties=False)),
        "up_bias": strategies.values(3, (2100,), ties=True),
        "budget": np.float32([0.9]),
    }
    case = Case(arrays, {"top_k": 1300, "activation": "identity"})
    check(case, run(gpu, case, compiled_tiles=True))


def test_splitting_a_row_changes_no_bit(gpu: Interpreter) -> None:
    arrays = {
        "pre": strategies.values(0, (3, 300), ties=False),
        "down": strategies.weights(1, (300, 70), np.float16),
        "down_bias": strategies.values(2, (70,), ties=False),
        "budget": np.float32([1, 0, np.nan]),
    }
    case = Case(arrays, {"activation": "relu"})
    whole, parts = run(gpu, case, programs=1), run(gpu, case, programs=1024)
    np.testing.assert_array_equal(whole[0].view(np.uint32)[:2], parts[0].view(np.uint32)[:2])
    assert np.isnan(whole[0][2]).all()
    assert np.isnan(parts[0][2]).all()
    np.testing.assert_array_equal(whole[1], parts[1])
    check(case, parts)


def test_a_row_does_not_depend_on_its_batch(gpu: Interpreter) -> None:
    case = Case(
        {"pre": strategies.values(0, (5, 70), ties=True), "down": strategies.weights(1, (70, 33), np.float32)},
        {"activation": "relu", "top_k": 20},
    )
    case.arrays["pre"][1, 7] = np.nan
    y, active = run(gpu, case)
    order = [3, 0, 4, 1]
    shuffled = run(gpu, Case({**case.arrays, "pre": case.arrays["pre"][order]}, case.attributes))
    np.testing.assert_array_equal(shuffled[0].view(np.uint32), y[order].view(np.uint32))
    np.testing.assert_array_equal(shuffled[1], active[order])


def test_ties_go_to_the_lower_index(gpu: Interpreter) -> None:
    pre = np.float32([[1, 3, 2, 3, 2, 2, 3, 2, 1, 2]])
    y, active = run(gpu, Case({"pre": pre, "down": np.eye(10, dtype=np.float32)}, {"top_k": 5}))
    np.testing.assert_array_equal(y, [[0, 3, 2, 3, 2, 0, 3, 0, 0, 0]])
    np.testing.assert_array_equal(active, [5])


def test_infinities_tie_as_well(gpu: Interpreter) -> None:
    pre = np.full((1, 130), np.inf, np.float32)
    pre[0, 0] = 1
    case = Case({"pre": pre, "down": np.ones((130, 1), np.float32)}, {"top_k": 128})
    y, active = run(gpu, case)
    np.testing.assert_array_equal(active, [128])
    np.testing.assert_array_equal(y, [[np.inf]])


def test_the_threshold_itself_is_not_active(gpu: Interpreter) -> None:
    pre = np.float32([[-2, -1, -0.5, 0, 0.5, 1, 2]])
    arrays = {"pre": pre, "down": np.eye(7, dtype=np.float32)}
    y, _ = run(gpu, Case(arrays, {"threshold": 1.0}))
    np.testing.assert_array_equal(y, [[0, 0, 0, 0, 0, 0, 2]])
    y, active = run(gpu, Case(arrays, {"threshold": 1.0, "activation": "identity"}))
    np.testing.assert_array_equal(y, [[-2, 0, 0, 0, 0, 0, 2]])
    np.testing.assert_array_equal(active, [2])


@pytest.mark.parametrize("by_tiles", [False, True])
def test_a_nan_poisons_its_row_and_no_budget_means_zeros(gpu: Interpreter, by_tiles: bool) -> None:
    pre = np.ones((6, 19), np.float32)
    pre[1, 18] = np.nan
    pre[2] = np.nan
    budget = np.float32([1, 1, 0, np.nan, -1, 0.1])
    down, bias = np.ones((19, 33), np.float32), np.full(33, 5, np.float32)
    case = Case({"pre": pre, "down": down, "down_bias": bias, "budget": budget}, {})
    y, active = run(gpu, case, by_tiles=by_tiles)
    np.testing.assert_array_equal(active, [19, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(y, np.float32([24, np.nan, 0, np.nan, 0, 7])[:, None] + np.zeros(33, np.float32))


def test_an_empty_batch(gpu: Interpreter) -> None:
    y, active = run(gpu, Case({"pre": np.zeros((0, 5), np.float32), "down": np.ones((5, 3), np.float32)}, {}))
    assert y.shape == (0, 3)
    assert active.shape == (0,)
