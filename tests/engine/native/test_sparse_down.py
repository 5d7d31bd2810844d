"""SparseDown against the reference, on every instruction set."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyneuron.engine import reference
from tests.engine.native import operators, strategies
from tests.engine.native.operators import Case, assert_close

# Values that a rounding may not move: which neurons are kept is then the same to the bit.
EXACT = ("relu", "relu2", "identity")
SMOOTH = ("gelu", "gelu_tanh", "silu")


def clear_of_edges(case: Case) -> bool:
    """Whether the last bits of a smooth activation decide nothing: no value at the threshold, none nearly tied."""
    arrays, attributes = case.arrays, case.attributes
    biased = arrays["pre"] + arrays.get("up_bias", np.float32(0))
    size = np.abs(reference.activate(biased, attributes["activation"])).reshape(-1, biased.shape[-1])
    close = 1e-4 * (size + 1e-30)
    if (np.abs(size - attributes["threshold"]) <= close).any() and (
        attributes["threshold"] > 0 or (size < 1e-30).any()
    ):
        return False
    ordered = np.sort(size, axis=1)
    return bool((np.diff(ordered, axis=1) > 1e-4 * ordered[:, 1:]).all())


@settings(max_examples=150)
@given(case=strategies.cases(activations=EXACT), threads=st.sampled_from([1, 2]))
def test_matches_the_reference(isa: str, case: Case, threads: int) -> None:
    y, active = case.run(isa, threads)
    expected, count = case.expected()
    np.testing.assert_array_equal(active, count)
    assert active.dtype == np.int32
    assert_close(case, y, expected)


@settings(max_examples=100)
@given(case=strategies.cases(activations=SMOOTH))
def test_matches_the_reference_with_smooth_activations(isa: str, case: Case) -> None:
    if not clear_of_edges(case):
        case = Case(case.arrays, {**case.attributes, "top_k": 0, "threshold": 0.0})
    y, active = case.run(isa)
    expected, count = case.expected()
    np.testing.assert_array_equal(active, count)
    assert_close(case, y, expected)


@settings(max_examples=100)
@given(case=strategies.cases(special=True, activations=EXACT))
def test_special_values(isa: str, case: Case) -> None:
    y, active = case.run(isa)
    expected, count = case.expected()
    np.testing.assert_array_equal(active, count)
    assert_close(case, y, expected)


@settings(max_examples=40)
@given(case=strategies.cases(special=True), order=st.randoms(use_true_random=False))
def test_a_row_depends_on_neither_batch_nor_threads(isa: str, case: Case, order: object) -> None:
    neurons = case.arrays["pre"].shape[-1]
    pre = case.arrays["pre"].reshape(-1, neurons)
    flat = {"pre": pre}
    if "budget" in case.arrays:
        flat["budget"] = case.arrays["budget"].reshape(-1)
    y, active = case.run(isa, **flat)
    again = case.run(isa, threads=2, **flat)
    np.testing.assert_array_equal(y.view(np.uint32), again[0].view(np.uint32))
    np.testing.assert_array_equal(active, again[1])
    rows = list(range(len(pre)))
    order.shuffle(rows)
    shuffled = case.run(isa, **{key: array[rows] for key, array in flat.items()})
    np.testing.assert_array_equal(y[rows].view(np.uint32), shuffled[0].view(np.uint32))
    for row in rows[:2]:
        alone = case.run(isa, **{key: array[row : row + 1] for key, array in flat.items()})
        np.testing.assert_array_equal(y[row].view(np.uint32), alone[0][0].view(np.uint32))
        assert active[row] == alone[1][0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 65, 300])
def test_work_large_enough_for_threads(isa: str, rows: int, threads: int) -> None:
    case = large(rows)
    y, active = case.run(isa, threads)
    expected, count = case.expected()
    np.testing.assert_array_equal(active, count)
    assert_close(case, y, expected)
    np.testing.assert_array_equal(y.view(np.uint32), case.run(isa, 3 - threads)[0].view(np.uint32))


def large(rows: int) -> Case:
    """Enough rows and panels that both phases are cut into tasks."""
    arrays = {
        "pre": strategies.values(0, (rows, 1030), ties=False),
        "down": strategies.weights(1, (1030, 403), np.float32),
        "down_bias": strategies.values(2, (403,), ties=False),
    }
    return Case(arrays, {"activation": "relu", "top_k": 200})


def test_many_rows_are_done_in_blocks(isa: str) -> None:
    # 16 MiB of lists hold 34 rows of this many neurons.
    case = Case(
        {
            "pre": strategies.values(0, (70, 60001), ties=True),
            "down": strategies.weights(1, (60001, 2), np.float32),
        },
        {"top_k": 5},
    )
    y, active = case.run(isa, 2)
    expected, count = case.expected()
    np.testing.assert_array_equal(active, count)
    assert_close(case, y, expected)


def test_ties_go_to_the_lower_index(isa: str) -> None:
    pre = np.float32([[1, 3, 2, 3, 2, 2, 3, 2, 1, 2]])
    down = np.eye(10, dtype=np.float32)
    y, active = Case({"pre": pre, "down": down}, {"top_k": 5}).run(isa)
    np.testing.assert_array_equal(y, [[0, 3, 2, 3, 2, 0, 3, 0, 0, 0]])
    np.testing.assert_array_equal(active, [5])


def test_the_threshold_itself_is_not_active(isa: str) -> None:
    pre = np.float32([[-2, -1, -0.5, 0, 0.5, 1, 2]])
    down = np.eye(7, dtype=np.float32)
    y, _ = Case({"pre": pre, "down": down}, {"threshold": 1.0}).run(isa)
    np.testing.assert_array_equal(y, [[0, 0, 0, 0, 0, 0, 2]])
    y, active = Case({"pre": pre, "down": down}, {"threshold": 1.0, "activation": "identity"}).run(isa)
    np.testing.assert_array_equal(y, [[-2, 0, 0, 0, 0, 0, 2]])
    np.testing.assert_array_equal(active, [2])


def test_a_nan_poisons_its_row_and_no_budget_means_zeros(isa: str) -> None:
    pre = np.ones((6, 19), np.float32)
    pre[1, 18] = np.nan
    pre[2] = np.nan
    budget = np.float32([1, 1, 0, np.nan, -1, 0.1])
    down, bias = np.ones((19, 33), np.float32), np.full(33, 5, np.float32)
    case = Case({"pre": pre, "down": down, "down_bias": bias, "budget": budget}, {})
    y, active = case.run(isa)
    np.testing.assert_array_equal(active, [19, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(y, np.float32([24, np.nan, 0, np.nan, 0, 7])[:, None] + np.zeros(33, np.float32))


def test_a_row_without_active_neurons_gives_the_bias(isa: str) -> None:
    bias = strategies.values(0, (67,), ties=False)
    case = Case({"pre": np.full((2, 9), -1, np.float32), "down": np.ones((9, 67), np.float32), "down_bias": bias}, {})
    y, active = case.run(isa)
    np.testing.assert_array_equal(y, np.stack([bias, bias]))
    np.testing.assert_array_equal(active, [0, 0])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 0, 5)])
def test_empty_batches(isa: str, shape: tuple[int, ...]) -> None:
    case = Case({"pre": np.zeros(shape, np.float32), "down": np.ones((5, 3), np.float32)}, {})
    y, active = case.run(isa, 2)
    assert y.shape == (*shape[:-1], 3)
    assert active.shape == shape[:-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_weights_that_are_no_constant(isa: str, dtype: type) -> None:
    arrays = {
        "pre": strategies.values(0, (3, 37), ties=False),
        "down": strategies.weights(1, (37, 130), dtype),
        "up_bias": strategies.values(2, (37,), ties=False),
        "down_bias": strategies.values(3, (130,), ties=False),
        "down_scale": np.abs(strategies.values(4, (37,), ties=False)),
    }
    case = Case(arrays, {"top_k": 9})
    with operators.forced(isa):
        opened = operators.session(operators.model(arrays, {}, top_k=9), 2)
    for _ in range(2):
        y, active = opened.run(["y", "active"], arrays)
        constant = case.run(isa)
        np.testing.assert_array_equal(y, constant[0])
        np.testing.assert_array_equal(active, constant[1])


def test_many_threads_share_a_session(isa: str) -> None:
    case = large(40)
    with operators.forced(isa):
        constants = {key: array for key, array in case.arrays.items() if key != "pre"}
        opened = operators.session(operators.model({"pre": case.arrays["pre"]}, constants, **case.attributes), 2)
    alone = [opened.run(["y"], {"pre": case.arrays["pre"][:rows]})[0] for rows in range(41)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for rows in np.random.default_rng(seed).integers(0, 41, 25):
            (y,) = opened.run(["y"], {"pre": case.arrays["pre"][:rows]})
            if not np.array_equal(y, alone[rows]):
                wrong.append(int(rows))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
