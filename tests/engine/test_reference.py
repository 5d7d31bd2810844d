"""The reference against PyTorch where the two overlap, and by hand where they do not."""

import numpy as np
import pytest

from lazyneuron.engine import reference

Array = np.ndarray


def arrays(rows: int = 5, neurons: int = 33, columns: int = 7) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {
        "pre": random.standard_normal((rows, neurons)).astype(np.float32),
        "down": random.standard_normal((neurons, columns)).astype(np.float32),
        "up_bias": random.standard_normal(neurons).astype(np.float32),
        "down_bias": random.standard_normal(columns).astype(np.float32),
    }


@pytest.mark.parametrize("activation", list(reference.ACTIVATIONS))
def test_dense_is_what_pytorch_computes(activation: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "relu": functional.relu,
        "relu2": lambda x: functional.relu(x) ** 2,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
        "identity": lambda x: x,
    }[activation]
    given = arrays()
    pre, down, up_bias, down_bias = (torch.from_numpy(given[key]).double() for key in given)
    hidden = theirs(pre + up_bias)
    y, active = reference.sparse_down(**given, activation=activation)
    expected = (hidden @ down + down_bias).numpy()
    size = (hidden.abs() @ down.abs() + down_bias.abs()).numpy()
    assert np.all(np.abs(y - expected) <= 4 * np.finfo(np.float32).eps * size)
    np.testing.assert_array_equal(active, (hidden != 0).sum(dim=1).numpy())


@pytest.mark.parametrize("activation", list(reference.ACTIVATIONS))
def test_infinities_are_what_pytorch_makes_of_them(activation: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = np.float32([np.inf, -np.inf, np.nan, 0])
    tensor = torch.from_numpy(x).double()
    theirs = {
        "relu": functional.relu(tensor),
        "relu2": functional.relu(tensor) ** 2,
        "gelu": functional.gelu(tensor),
        "gelu_tanh": functional.gelu(tensor, approximate="tanh"),
        "silu": functional.silu(tensor),
        "identity": tensor,
    }[activation]
    np.testing.assert_array_equal(reference.activate(x, activation), theirs.numpy())


def test_ties_go_to_the_lower_index_and_order_does_not_matter() -> None:
    pre = np.float32([[1, 3, 2, 3, 2, 2, 3, 2, 1, 2]])
    y, active = reference.sparse_down(pre, np.eye(10, dtype=np.float32), top_k=5)
    np.testing.assert_array_equal(y, [[0, 3, 2, 3, 2, 0, 3, 0, 0, 0]])
    assert active == [5]


def test_magnitude_decides_for_all_but_relu_and_relu2() -> None:
    pre = np.float32([[-3, 1, 2, -0.5]])
    y, _ = reference.sparse_down(pre, np.eye(4, dtype=np.float32), activation="identity", top_k=2, threshold=0.5)
    np.testing.assert_array_equal(y, [[-3, 0, 2, 0]])
    y, _ = reference.sparse_down(pre, np.eye(4, dtype=np.float32), activation="relu2", threshold=1.0)
    np.testing.assert_array_equal(y, [[0, 0, 4, 0]])


@pytest.mark.parametrize(
    ("budget", "top_k", "kept"),
    [
        (1.0, 4, 4),
        (0.5, 4, 2),
        (0.51, 4, 3),
        (1e-30, 4, 1),
        (2.0, 4, 8),
        (0.5, 0, 5),
        (1.0, 0, 10),
        (9.0, 0, 10),
        (np.inf, 1, 10),
    ],
)
def test_budget(budget: float, top_k: int, kept: int) -> None:
    pre, down = np.ones((1, 10), np.float32), np.ones((10, 2), np.float32)
    y, active = reference.sparse_down(pre, down, budget=np.float32([budget]), top_k=top_k)
    np.testing.assert_array_equal(active, [kept])
    np.testing.assert_array_equal(y, [[kept, kept]])


def test_rows_without_budget_and_rows_with_nan() -> None:
    pre = np.ones((5, 3), np.float32)
    pre[1, 2] = np.nan
    pre[2] = np.nan
    budget = np.float32([1, 1, 0, -1, np.nan])
    bias = np.float32([10, 20])
    y, active = reference.sparse_down(pre, np.ones((3, 2), np.float32), down_bias=bias, budget=budget)
    np.testing.assert_array_equal(y, np.float32([[13, 23], [np.nan] * 2, [0, 0], [0, 0], [np.nan] * 2]))
    np.testing.assert_array_equal(active, [3, 0, 0, 0, 0])


@pytest.mark.parametrize("leading", [(), (0,), (3,), (2, 0), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_kept(leading: tuple[int, ...]) -> None:
    y, active = reference.sparse_down(
        np.ones((*leading, 4), np.float32), np.ones((4, 2), np.int8), down_scale=np.full(4, 0.5, np.float32)
    )
    assert (y.shape, y.dtype) == ((*leading, 2), np.float32)
    assert (active.shape, active.dtype) == (leading, np.int32)
    assert np.all(y == 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": np.ones((5, 33))}, "pre is float64, expected float32"),
        ({"down": np.ones((33, 7))}, "down is float64, expected float32, float16 or int8"),
        ({"down": np.ones((33, 7), np.int8)}, "down is int8 and there is no down_scale"),
        ({"down": np.ones((32, 7), np.float32)}, r"pre has shape \(5, 33\), expected \[..., F\] with F = 32"),
        ({"down": np.ones(33, np.float32)}, r"down has shape \(33,\), expected \[F, D_out\]"),
        ({"up_bias": np.ones(7, np.float32)}, r"up_bias has shape \(7,\), expected \(33,\)"),
        ({"down_bias": np.ones(33, np.float32)}, r"down_bias has shape \(33,\), expected \(7,\)"),
        ({"budget": np.ones(4, np.float32)}, r"budget has shape \(4,\), expected \(5,\)"),
        ({"activation": "swish"}, "activation is 'swish', expected one of relu, relu2"),
        ({"top_k": -1}, r"top_k is -1, expected 0 \(no cap\) to F = 33"),
        ({"top_k": 34}, r"top_k is 34, expected 0 \(no cap\) to F = 33"),
        ({"threshold": -1.0}, "threshold is -1.0, expected a finite number that is not negative"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference.sparse_down(**(arrays() | changes))
