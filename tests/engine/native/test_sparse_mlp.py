"""SparseMLP against the reference, on every instruction set."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyneuron.engine import reference
from tests.engine.native import mlp, operators
from tests.engine.native.mlp import Case, assert_close
from tests.engine.native.strategies import SEEDS, SIZES

NORMAL = np.float32([0.0, -1.0, 1e-30, 0.3, 0.5, 1.0, 2.0, np.inf])


def quarters(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small multiples of a quarter: float32 sums of their products are exact, whatever the order."""
    return (rng.integers(-8, 9, shape) / 4).astype(np.float32)


def matrix(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    return rng.integers(-100, 101, shape).astype(np.int8) if dtype is np.int8 else quarters(rng, *shape).astype(dtype)


@st.composite
def cases(draw: st.DrawFn, modes: tuple[str, ...], activations: tuple[str, ...]) -> Case:
    """Draw a block whose projections are exact in float32, so that which neurons are active is exact too."""
    leading = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=9))
    depth, neurons, columns = draw(SIZES), draw(SIZES), draw(SIZES)
    rng = np.random.default_rng(draw(SEEDS))
    mode = draw(st.sampled_from(modes))
    arrays = {"x": quarters(rng, *leading, depth)}
    names = ["up", "down"] + (["gate"] if mode == "predictor" and draw(st.booleans()) else [])
    for name in names:
        dtype = draw(st.sampled_from([np.float32, np.float16, np.int8]))
        arrays[name] = matrix(rng, dtype, neurons, columns if name == "down" else depth)
        if dtype is np.int8 or draw(st.booleans()):
            arrays[f"{name}_scale"] = (2.0 ** rng.integers(-3, 1, neurons)).astype(np.float32)
    if draw(st.booleans()):  # of both signs and large: rows from almost none to almost all active
        arrays["up_bias"] = quarters(rng, neurons) * np.float32(draw(st.sampled_from([1, 16])))
    if draw(st.booleans()):
        arrays["down_bias"] = quarters(rng, columns)
    if draw(st.booleans()):
        arrays["budget"] = rng.choice(NORMAL, leading).astype(np.float32)
    if mode != "certified":
        arrays["scores"] = quarters(rng, *leading, neurons)
    if draw(st.booleans()):
        arrays["screen_shift"] = rng.standard_normal(depth).astype(np.float32)
    if draw(st.booleans()):
        arrays["screen_scale"] = (rng.choice([-1, 1], depth) * rng.uniform(0.1, 9, depth)).astype(np.float32)
    attributes = {
        "mode": mode,
        "activation": draw(st.sampled_from(activations)),
        "top_k": draw(st.sampled_from([0, 1, (neurons + 1) // 2, neurons])),
        "threshold": draw(st.sampled_from([0.0, 0.25, 2.0])),
        "score_threshold": 0.0 if mode == "certified" else draw(st.sampled_from([-0.5, 0.0, 0.5])),
    }
    return Case(arrays, attributes)


def check(case: Case, outputs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Compare with the reference."""
    y, active, candidates = outputs
    expected, count, fewest = case.expected()
    np.testing.assert_array_equal(active, count)
    assert active.dtype == candidates.dtype == np.int32
    if case.attributes["mode"] == "certified":
        assert (candidates >= fewest).all()
        assert (candidates <= len(case.arrays["up"])).all()
    else:
        np.testing.assert_array_equal(candidates, fewest)
    assert_close(case, y, expected)


@settings(max_examples=120)
@given(case=cases(("certified",), ("relu", "relu2")), threads=st.sampled_from([1, 2]))
def test_certified_matches_the_reference(isa: str, case: Case, threads: int) -> None:
    check(case, case.run(isa, threads))


@settings(max_examples=120)
@given(case=cases(("predictor", "gate"), ("relu", "relu2", "identity")), threads=st.sampled_from([1, 2]))
def test_scored_modes_match_the_reference(isa: str, case: Case, threads: int) -> None:
    check(case, case.run(isa, threads))


@settings(max_examples=60)
@given(case=cases(("predictor", "gate"), ("gelu", "gelu_tanh", "silu")))
def test_smooth_activations_match_the_reference(isa: str, case: Case) -> None:
    # A cap or a threshold would make the last bit of an activation decide.
    low = {"top_k": 0, "threshold": 0.0, "score_threshold": -0.5 if case.attributes["mode"] == "predictor" else 0.0}
    case = Case(case.arrays, {**case.attributes, **low})
    y, active, candidates = case.run(isa)
    expected, _, found = case.expected()
    np.testing.assert_array_equal(candidates, found)
    # Far down an activation's tail a value may round to zero here and not there.
    clear = Case(case.arrays, {**case.attributes, "threshold": 1e-30}).expected()[1]
    assert (clear <= active).all()
    assert (active <= candidates).all()
    assert_close(case, y, expected)


def block(rng: np.random.Generator, rows: int, depth: int, neurons: int, bias: float, columns: int = 33) -> Case:
    """A block of normal weights, about as many neurons active as a normal value exceeds -bias."""
    arrays = {
        "x": rng.standard_normal((rows, depth)).astype(np.float32),
        "up": (rng.standard_normal((neurons, depth)) / np.sqrt(depth)).astype(np.float32),
        "down": rng.standard_normal((neurons, columns)).astype(np.float32),
        "up_bias": np.full(neurons, bias, np.float32),
    }
    return Case(arrays, {"mode": "certified", "activation": "relu"})


def same_bits(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("bias", [-2.0, 0.0, 4.0])
@pytest.mark.parametrize("mode", ["certified", "predictor", "gate"])
def test_a_row_depends_on_neither_batch_nor_threads(isa: str, mode: str, bias: float) -> None:
    # Of all densities: beside others a row goes through the blocks of all neurons, alone through its list.
    rng = np.random.default_rng(0)
    case = block(rng, 90, 77, 517, bias)
    case.arrays["x"][:30] *= 3
    if mode != "certified":
        case.arrays["scores"] = (rng.standard_normal((90, 517)) + bias).astype(np.float32)
    case = Case(case.arrays, {**case.attributes, "mode": mode})
    whole = case.run(isa)
    assert same_bits(whole, case.run(isa, threads=2))
    order = rng.permutation(90).tolist()
    assert same_bits(tuple(output[order] for output in whole), case.rows(order).run(isa, threads=2))
    for row in (0, 31, 89):
        assert same_bits(tuple(output[[row]] for output in whole), case.rows([row]).run(isa))


# --- the certified screen, attacked -------------------------------------------------------------------------------


def attack(kind: str, rng: np.random.Generator) -> Case:
    """A block made to mislead the screen."""
    depth, neurons = int(rng.choice([1, 3, 16, 65, 256])), int(rng.choice([1, 64, 130]))
    case = block(rng, 24, depth, neurons, float(rng.choice([-2.0, -1.0, 0.0, 0.5])), columns=3)
    x, up, bias = case.arrays["x"], case.arrays["up"], case.arrays["up_bias"]
    attributes: dict[str, Any] = {"threshold": float(rng.choice([0.0, 0.0, 0.7]))}
    if kind == "huge norms":
        x *= np.float32(10.0) ** rng.integers(10, 30, (len(x), 1)).astype(np.float32)
        bias[:] = 0
    elif kind == "huge sums":
        x *= np.float32(1e36)
        up *= np.float32(10)
    elif kind == "tiny":
        x *= np.float32(10.0) ** rng.integers(-38, -15, (len(x), 1)).astype(np.float32)
        up *= np.float32(10.0) ** rng.integers(-20, 1, (neurons, 1)).astype(np.float32)
        bias[:] = rng.choice(np.float32([0, 1e-45, -1e-40, 1e-38]), neurons)
        attributes["threshold"] = float(rng.choice([0.0, 1e-42]))
    elif kind == "one-hot":
        x[:] = 0
        x[np.arange(len(x)), rng.integers(0, depth, len(x))] = rng.choice([1e-3, 1, 1e4], len(x))
    elif kind == "equal rows":
        up[:] = up[0]
        x[:] = x[0]
        bias[:] = -(x[0] @ up[0]) + rng.standard_normal(neurons).astype(np.float32) * 1e-6
    elif kind == "outlier column":
        x[:, 0] *= 1e3
        up[:, -1] *= 1e3
    elif kind == "zero":
        x[::2] = 0
        up[::3] = 0
        bias[:] = rng.choice(np.float32([0, 1e-45, -1e-45, 0.7, np.nextafter(np.float32(0.7), 1)]), neurons)
    elif kind == "at the threshold":
        row = x[int(rng.integers(len(x)))].astype(np.float64)
        steps = rng.integers(-3, 4, neurons) * 1e-6
        bias[:] = attributes["threshold"] - up.astype(np.float64) @ row + steps
    elif kind == "half steps":  # every code is rounded by half of its step, all the same way
        signs = rng.choice([-1, 1], (neurons, depth))
        up[:] = signs * (rng.integers(0, 126, (neurons, depth)) + 0.49) / 127
        x[:] = signs[rng.integers(0, neurons, len(x))] * (rng.integers(0, 126, (len(x), depth)) + 0.49) / 127
        x[:, 0], up[:, 0] = 1, 1
        bias[:] = -np.quantile(x @ up.T, 0.9)
    if rng.random() < 0.5:
        size = np.float32(10.0) ** rng.integers(-30, 30, depth).astype(np.float32)
        case.arrays["screen_scale"] = size if rng.random() < 0.5 else rng.uniform(0.5, 2, depth).astype(np.float32)
    if rng.random() < 0.5:
        case.arrays["screen_shift"] = (x / 24).sum(axis=0) * np.float32(
            rng.choice([1, 0.1 if kind == "huge sums" else 1e3])
        )
    kinds = ["float32", "float32", "float16", "int8"]
    kind = str(rng.choice(kinds)) if np.abs(up).max() < 1e4 and np.abs(up).max() > 1e-3 else "float32"
    if kind == "int8":
        scale = np.abs(up).max(axis=1) / 127
        scale[scale == 0] = 1
        case.arrays["up"], case.arrays["up_scale"] = np.rint(up / scale[:, None]).astype(np.int8), scale
    else:
        case.arrays["up"] = up.astype(kind)
    attributes["activation"] = str(rng.choice(["relu", "relu", "relu2"]))
    return Case(case.arrays, {**case.attributes, **attributes})


KINDS = (
    "random",
    "huge norms",
    "huge sums",
    "tiny",
    "one-hot",
    "equal rows",
    "outlier column",
    "zero",
    "at the threshold",
    "half steps",
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_active_neuron_is_missed(isa: str, kind: str) -> None:
    for seed in range(40):
        case = attack(kind, np.random.default_rng([seed, KINDS.index(kind)]))
        _, active, candidates = case.run(isa)
        assert mlp.missed(case, active, candidates) == 0, seed
        assert (candidates >= active).all(), seed


def test_the_attacked_screen_does_skip(isa: str) -> None:
    skipped = 0
    for seed in range(10):
        case = attack("random", np.random.default_rng([seed, 0]))
        skipped += case.arrays["x"].shape[0] * len(case.arrays["up"]) - int(case.run(isa)[2].sum())
    assert skipped > 1000


@pytest.mark.parametrize("probability", [1e-2, 1e-3])
def test_misses_are_rarer_than_promised(probability: float) -> None:
    # Wide blocks at a threshold that many values are close to: the misses that do happen are counted.
    rng = np.random.default_rng(1)
    missed = total = 0
    for _ in range(4):
        case = block(rng, 128, 768, 1024, 0.0, columns=1)
        attributes = {**case.attributes, "miss_probability": probability}
        _, active, _ = Case(case.arrays, attributes).run()
        pre, _ = mlp.pre_activations(case)
        missed += int(np.maximum((pre > 1e-5).sum(axis=1) - active, 0).sum())
        total += pre.size
    assert missed <= probability * total


def test_the_probabilistic_bound_is_tighter_on_isotropic_rows() -> None:
    case = block(np.random.default_rng(2), 64, 768, 2048, -1.9)
    deterministic = case.run()
    probabilistic = Case(case.arrays, {**case.attributes, "miss_probability": 1e-12}).run()
    np.testing.assert_array_equal(deterministic[1], probabilistic[1])
    assert probabilistic[2].sum() < 0.85 * deterministic[2].sum()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_rows_that_are_not_finite_are_computed_densely(isa: str, value: float) -> None:
    case = block(np.random.default_rng(3), 7, 40, 130, -2.0)
    before = case.run(isa)
    case.arrays["x"][3, 39] = value
    y, active, candidates = case.run(isa)
    expected, count, fewest = case.expected()
    others = [0, 1, 2, 4, 5, 6]
    assert candidates[3] == fewest[3] == 130
    assert active[3] == count[3]
    np.testing.assert_array_equal(np.isnan(y[3]), np.isnan(expected[3]))
    assert same_bits(tuple(output[others] for output in before), (y[others], active[others], candidates[others]))


@pytest.mark.parametrize("mode", ["predictor", "gate"])
@pytest.mark.parametrize("where", ["x", "scores", "budget"])
def test_a_nan_poisons_its_row_alone(isa: str, mode: str, where: str) -> None:
    rng = np.random.default_rng(4)
    case = block(rng, 5, 20, 70, -1.0)
    case.arrays["scores"] = rng.standard_normal((5, 70)).astype(np.float32)
    case.arrays["scores"][4] = -100  # no candidates, and still a NaN in x poisons it
    case.arrays["budget"] = np.ones(5, np.float32)
    case = Case(case.arrays, {**case.attributes, "mode": mode})
    before = case.run(isa)
    for row in (1, 4):
        case.arrays[where].reshape(5, -1)[row, -1] = np.nan
    y, active, candidates = case.run(isa)
    expected, count, found = case.expected()
    others = [0, 2, 3]
    assert np.isnan(y[[1, 4]]).all()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(active, count)
    np.testing.assert_array_equal(candidates, found)
    assert same_bits(tuple(output[others] for output in before), (y[others], active[others], candidates[others]))


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_a_gate_without_a_value_poisons_its_row_alone(isa: str, activation: str) -> None:
    """Like the dense block's: gelu, gelu_tanh and silu of minus infinity are NaN."""
    case = block(np.random.default_rng(4), 3, 20, 70, -1.0)
    case.arrays["scores"] = np.random.default_rng(5).standard_normal((3, 70)).astype(np.float32)
    case.arrays["scores"][1, 3] = -np.inf
    case = Case(case.arrays, {**case.attributes, "mode": "gate", "activation": activation})
    for outputs in (case.run(isa), case.expected()):
        y, active, candidates = outputs
        np.testing.assert_array_equal(np.isnan(y).any(axis=1), [False, activation != "relu", False])
        np.testing.assert_array_equal((active > 0, candidates > 0), [[True, activation == "relu", True]] * 2)


def test_rows_without_a_budget_cost_nothing(isa: str) -> None:
    case = block(np.random.default_rng(5), 6, 33, 65, 0.5)
    case.arrays["x"][2] = np.nan
    case.arrays["budget"] = np.float32([1, 0, 0, -1, 1, 0])
    case.arrays["down_bias"] = np.ones(33, np.float32)
    y, _, candidates = case.run(isa)
    np.testing.assert_array_equal(y[[1, 2, 3, 5]], 0)
    np.testing.assert_array_equal(candidates[[1, 2, 3, 5]], 0)
    assert (candidates[[0, 4]] > 0).all()


def test_zero_rows_make_no_candidates(isa: str) -> None:
    case = block(np.random.default_rng(6), 4, 33, 65, 0.0)
    case.arrays["x"][:] = 0
    np.testing.assert_array_equal(case.run(isa)[2], 0)


def test_weights_that_are_no_constants_give_the_same() -> None:
    case = block(np.random.default_rng(7), 9, 50, 100, -1.0)
    case.arrays["screen_shift"] = case.arrays["x"].mean(axis=0)
    case.arrays["screen_scale"] = np.full(50, 0.5, np.float32)
    assert same_bits(case.run(), case.run(fed=tuple(case.arrays)))


def test_a_bad_screen_costs_candidates_not_results(isa: str) -> None:
    case = block(np.random.default_rng(8), 20, 64, 256, -1.9)
    good = case.run(isa)
    case.arrays["screen_scale"] = np.float32(10.0) ** np.linspace(-4, 4, 64).astype(np.float32)
    case.arrays["screen_shift"] = np.full(64, 30, np.float32)
    bad = case.run(isa)
    assert same_bits(good[:2], bad[:2])
    assert bad[2].sum() > good[2].sum()


def test_the_forced_set_runs(isa: str) -> None:
    case = block(np.random.default_rng(9), 2, 16, 16, 0.5)
    before = {name: operators.calls(name) for name in operators.supported()}
    case.run(isa)
    after = {name: operators.calls(name) for name in operators.supported()}
    assert [name for name in after if after[name] > before[name]] == [isa]


def test_many_rows_go_in_blocks() -> None:
    # More rows than fit the scratch memory of one block, with padding between.
    case = block(np.random.default_rng(10), 3000, 8, 2048, -1.5, columns=16)
    case.arrays["budget"] = (np.arange(3000) % 3 != 0).astype(np.float32)
    y, active, _ = case.run(threads=2)
    expected, count, _ = reference.sparse_mlp(**case.rows(slice(2990, 3000)).arrays, **case.attributes)
    assert np.abs(active[2990:] - count).max() <= 1
    np.testing.assert_allclose(y[2990:], expected, atol=1e-3)
