"""The GPU's SparseMLP against the reference, and its certified screen under attack."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.gpu.cases import cut, in_bfloat16
from tests.engine.gpu.interpreter import Interpreter
from tests.engine.native import mlp
from tests.engine.native.mlp import Case, assert_close
from tests.engine.native.test_sparse_mlp import KINDS, attack, block, cases, check

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]


def run(gpu: Interpreter, case: Case, **options: object) -> Outputs:
    y, active, candidates = gpu("sparse_mlp", case.arrays, **case.attributes, **options)
    return y, active, candidates


@settings(max_examples=9)
@given(case=cases(("certified",), ("relu", "relu2")), bf16=st.booleans(), programs=st.sampled_from([1, 8]))
def test_certified_matches_the_reference(gpu: Interpreter, case: Case, bf16: bool, programs: int) -> None:
    case = cut(case, 2)
    check(case, run(gpu, case, bf16=in_bfloat16(case, ("up", "down")) if bf16 else (), programs=programs))


@settings(max_examples=9)
@given(case=cases(("predictor", "gate"), ("relu", "relu2", "identity")), bf16=st.booleans())
def test_scored_modes_match_the_reference(gpu: Interpreter, case: Case, bf16: bool) -> None:
    case = cut(case, 2)
    check(case, run(gpu, case, bf16=in_bfloat16(case, ("up", "down", "gate")) if bf16 else ()))


@settings(max_examples=5)
@given(case=cases(("predictor", "gate"), ("gelu", "gelu_tanh", "silu")))
def test_smooth_activations_match_the_reference(gpu: Interpreter, case: Case) -> None:
    # A cap or a threshold would make the last bit of an activation decide.
    low = {"top_k": 0, "threshold": 0.0, "score_threshold": -0.5 if case.attributes["mode"] == "predictor" else 0.0}
    case = cut(Case(case.arrays, {**case.attributes, **low}), 2)
    y, active, candidates = run(gpu, case)
    expected, _, found = case.expected()
    np.testing.assert_array_equal(candidates, found)
    # Far down an activation's tail a value may round to zero here and not there.
    clear = Case(case.arrays, {**case.attributes, "threshold": 1e-30}).expected()[1]
    assert (clear <= active).all()
    assert (active <= candidates).all()
    assert_close(case, y, expected)


def test_the_compiled_tiles_do_the_same(gpu: Interpreter) -> None:
    # int8 projects 4 neurons and twice 512 of the depth at a time.
    rng = np.random.default_rng(0)
    case = block(rng, 1, 1100, 40, 0.0)
    case.arrays["up"] = rng.integers(-100, 101, (40, 1100)).astype(np.int8)
    case.arrays["up_scale"] = np.full(40, 2.0**-10, np.float32)
    check(case, run(gpu, case, compiled_tiles=True))


def test_splitting_changes_no_bit(gpu: Interpreter) -> None:
    case = block(np.random.default_rng(0), 1, 80, 100, 0.5)
    for ours, theirs in zip(run(gpu, case), run(gpu, case, programs=16), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_no_active_neuron_is_screened_out(gpu: Interpreter, kind: str) -> None:
    for seed, miss_probability in enumerate((0.0, 0.0, 1e-9)):
        case = attack(kind, np.random.default_rng([seed, KINDS.index(kind)]))
        attributes = {name: case.attributes[name] for name in ("activation", "threshold") if name in case.attributes}
        arrays = {**case.arrays, "x": case.arrays["x"][:4]}
        candidate = gpu("screened", arrays, wide=seed > 0, miss_probability=miss_probability, **attributes)
        pre, error = mlp.pre_activations(Case(arrays, case.attributes))
        threshold = attributes.get("threshold", 0.0)
        if attributes["activation"] == "relu2":
            threshold = np.sqrt(max(threshold, 2.0**-149)) * (1 + 1e-6)
        # An active neuron that is not computed is told from a row that overflowed: there all are.
        assert candidate[pre - error > threshold].all(), seed


@pytest.mark.parametrize(("coordinates", "miss_probability"), [(False, 0.0), (True, 0.0), (True, 1e-9)])
def test_the_screen_is_as_tight_as_the_cpus(gpu: Interpreter, coordinates: bool, miss_probability: float) -> None:
    case = block(np.random.default_rng(2), 3, 200, 300, -1.9)
    if coordinates:
        rng = np.random.default_rng(3)
        case.arrays["screen_shift"] = (rng.standard_normal(200) / 4).astype(np.float32)
        case.arrays["screen_scale"] = (rng.choice([-1, 1], 200) * rng.uniform(0.5, 2, 200)).astype(np.float32)
    case = Case(case.arrays, {**case.attributes, "miss_probability": miss_probability})
    there = case.run()[2]
    narrow = gpu("screened", case.arrays, miss_probability=miss_probability)
    np.testing.assert_array_equal(narrow, gpu("screened", case.arrays, wide=True, miss_probability=miss_probability))
    # The same codes and bounds, up to the last bits of the norms.
    assert np.abs(narrow.sum(axis=1) - there).max() <= 1
    assert there.max() < 150


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_rows_that_are_not_finite_are_computed_densely(gpu: Interpreter, value: float) -> None:
    case = block(np.random.default_rng(3), 3, 40, 70, -2.0)
    before = run(gpu, case)
    case.arrays["x"][1, 39] = value
    y, active, candidates = run(gpu, case)
    expected, count, fewest = case.expected()
    assert candidates[1] == fewest[1] == 70
    assert active[1] == count[1]
    np.testing.assert_array_equal(np.isnan(y[1]), np.isnan(expected[1]))
    for old, new in zip(before, (y, active, candidates), strict=True):
        assert old[[0, 2]].tobytes() == new[[0, 2]].tobytes()


def test_a_gate_without_a_value_poisons_its_row_alone(gpu: Interpreter) -> None:
    case = block(np.random.default_rng(4), 3, 20, 70, -1.0)
    case.arrays["scores"] = np.random.default_rng(5).standard_normal((3, 70)).astype(np.float32)
    case.arrays["scores"][1, 3] = -np.inf  # whose gelu is NaN
    case = Case(case.arrays, {**case.attributes, "mode": "gate", "activation": "gelu"})
    y, active, candidates = run(gpu, case)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, False])
    np.testing.assert_array_equal((active > 0, candidates > 0), [[True, False, True]] * 2)


@pytest.mark.parametrize("mode", ["predictor", "gate"])
def test_a_nan_poisons_its_row_alone(gpu: Interpreter, mode: str) -> None:
    rng = np.random.default_rng(4)
    case = block(rng, 7, 20, 70, -1.0)
    case.arrays["scores"] = rng.standard_normal((7, 70)).astype(np.float32)
    case.arrays["scores"][4] = -100  # no candidates, and still a NaN in x poisons it
    case.arrays["budget"] = np.ones(7, np.float32)
    case.arrays["x"][[1, 4], 19] = np.nan
    case.arrays["scores"][2, 69] = np.nan
    case.arrays["budget"][[3, 5]] = np.nan, 0
    case = Case(case.arrays, {**case.attributes, "mode": mode})
    y, active, candidates = run(gpu, case)
    expected, count, found = case.expected()
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, True, True, True, False, False])
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(active, count)
    np.testing.assert_array_equal(candidates, found)


def test_certified_rows_without_a_budget_cost_nothing(gpu: Interpreter) -> None:
    case = block(np.random.default_rng(5), 4, 33, 65, 0.5)
    case.arrays["x"][2] = np.nan
    case.arrays["budget"] = np.float32([1, 0, -1, np.nan])
    case.arrays["down_bias"] = np.ones(33, np.float32)
    y, active, candidates = run(gpu, case)
    np.testing.assert_array_equal(y[[1, 2]], 0)
    assert np.isnan(y[3]).all()
    np.testing.assert_array_equal(candidates[1:], 0)
    np.testing.assert_array_equal(active[1:], 0)
    assert candidates[0] > 0


def test_zero_rows_make_no_candidates(gpu: Interpreter) -> None:
    arrays = block(np.random.default_rng(6), 2, 33, 65, 0.0).arrays
    assert not gpu("screened", {**arrays, "x": np.zeros((2, 33), np.float32)}).any()


def test_an_empty_batch(gpu: Interpreter) -> None:
    case = block(np.random.default_rng(7), 0, 5, 6, 0.0)
    y, active, candidates = run(gpu, case)
    assert y.shape == (0, 33)
    assert active.shape == candidates.shape == (0,)
