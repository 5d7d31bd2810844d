"""What does not fit is refused in words that name the node, what was got and what was expected."""

import re
from typing import Any

import numpy as np
import pytest

from tests.engine.native import operators

NODE = "SparseDown node 'block/mlp': "


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """All inputs of a node with F = 4, D_out = 3 and two rows; None leaves one out."""
    everything = {
        "pre": np.ones((2, 4), np.float32),
        "down": np.ones((4, 3), np.float32),
        "up_bias": np.ones(4, np.float32),
        "down_bias": np.ones(3, np.float32),
        "budget": np.ones(2, np.float32),
        "down_scale": np.ones(4, np.float32),
    }
    return {key: array for key, array in (everything | changes).items() if array is not None}


def spoilt(shape: tuple[int, ...], position: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    array = np.ones(shape, dtype)
    array[position] = np.nan
    return array


def build(
    given: dict[str, np.ndarray], *, static: bool = True, feeds: tuple[str, ...] = ("pre", "budget"), **attributes: Any
):
    """Open a session; the graph knows the fed inputs' shapes, or not even their ranks."""
    fed = {key: array for key, array in given.items() if key in feeds}
    constants = {key: array for key, array in given.items() if key not in feeds}
    shapes = {key: list(array.shape) if static else None for key, array in fed.items()}
    return operators.session(operators.model(fed, constants, shapes, **attributes))


SHAPES = [
    (
        {"down": np.ones((5, 3), np.float32)},
        "input 'pre' has shape [2, 4], expected [..., F] with F = 5 as 'down' has it",
    ),
    ({"down": np.ones((2, 4, 3), np.float32)}, "input 'down' has shape [2, 4, 3], expected rank 2: [F, D_out]"),
    ({"down": np.ones((4, 0), np.float32)}, "input 'down' has shape [4, 0], expected F and D_out of at least 1"),
    ({"up_bias": np.ones(5, np.float32)}, "input 'up_bias' has shape [5], expected [F = 4]"),
    ({"up_bias": np.ones((1, 4), np.float32)}, "input 'up_bias' has shape [1, 4], expected [F = 4]"),
    ({"down_bias": np.ones(4, np.float32)}, "input 'down_bias' has shape [4], expected [D_out = 3]"),
    ({"down_scale": np.ones(3, np.float32)}, "input 'down_scale' has shape [3], expected [F = 4]"),
    (
        {"budget": np.ones(3, np.float32)},
        "input 'budget' has shape [3], expected [2], the shape of 'pre' without its last dimension",
    ),
    (
        {"budget": np.ones((2, 1), np.float32)},
        "input 'budget' has shape [2, 1], expected [2], the shape of 'pre' without its last dimension",
    ),
]


@pytest.mark.parametrize(("changes", "message"), SHAPES)
def test_shapes_are_refused_when_the_session_is_built(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(NODE + message)):
        build(arrays(**changes))


@pytest.mark.parametrize(("changes", "message"), SHAPES)
def test_shapes_known_only_at_run_time_are_refused_then(changes: dict[str, np.ndarray], message: str) -> None:
    given = arrays(**changes)
    session = build(given, static=False, feeds=operators.INPUTS)
    with pytest.raises(Exception, match=re.escape(NODE + message)):
        session.run(None, given)


def test_a_scalar_is_refused_at_run_time() -> None:
    given = {"pre": np.array(1, np.float32), "down": np.ones((4, 3), np.float32)}
    session = build(given)
    with pytest.raises(
        Exception, match=re.escape(NODE + "input 'pre' has shape [], expected rank 1 or more: [..., F]")
    ):
        session.run(None, {"pre": given["pre"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": np.ones((2, 4), np.float64)}, "input 'pre' is float64, expected float32"),
        ({"pre": np.ones((2, 4), np.float16)}, "input 'pre' is float16, expected float32"),
        ({"down": np.ones((4, 3), np.float64)}, "input 'down' is float64, expected float32, float16 or int8"),
        ({"down": np.ones((4, 3), np.uint8)}, "input 'down' is uint8, expected float32, float16 or int8"),
        ({"up_bias": np.ones(4, np.float16)}, "input 'up_bias' is float16, expected float32"),
        ({"down_bias": np.ones(3, np.int32)}, "input 'down_bias' is int32, expected float32"),
        ({"budget": np.ones(2, np.int64)}, "input 'budget' is int64, expected float32"),
        ({"down_scale": np.ones(4, np.float64)}, "input 'down_scale' is float64, expected float32"),
        (
            {"down": np.ones((4, 3), np.int8), "down_scale": None},
            "input 'down' is int8 and there is no input 'down_scale', expected one float32 for each neuron",
        ),
    ],
)
def test_types(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(NODE + message)):
        build(arrays(**changes))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"activation": "swish"},
            "attribute 'activation' is 'swish', expected one of relu, relu2, gelu, gelu_tanh, silu, identity",
        ),
        ({"activation": 3}, "attribute 'activation' is an integer, expected a string"),
        ({"top_k": -1}, "attribute 'top_k' is -1, expected 0 (no cap) or the most neurons to keep in a row"),
        ({"top_k": 5}, "attribute 'top_k' is 5, expected at most F = 4, the number of neurons"),
        ({"top_k": 2.0}, "attribute 'top_k' is a float, expected an integer"),
        ({"threshold": -0.5}, "attribute 'threshold' is -0.5"),
        ({"threshold": float("nan")}, "attribute 'threshold' is nan, expected a finite number that is not negative"),
        ({"threshold": float("inf")}, "attribute 'threshold' is inf, expected a finite number"),
        ({"threshold": "0"}, "attribute 'threshold' is a string, expected a float"),
    ],
)
def test_attributes(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(NODE + message)):
        build(arrays(), **attributes)


def test_top_k_above_a_size_known_only_at_run_time() -> None:
    given = arrays()
    session = build(given, static=False, feeds=operators.INPUTS, top_k=5)
    with pytest.raises(Exception, match=re.escape(NODE + "attribute 'top_k' is 5, expected at most F = 4")):
        session.run(None, given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down": spoilt((4, 3), (2, 1))}, "input 'down' is NaN at neuron 2, column 1"),
        ({"down": spoilt((4, 3), (3, 0), np.float16)}, "input 'down' is NaN at neuron 3, column 0"),
        ({"up_bias": spoilt((4,), (1,))}, "input 'up_bias' is NaN at neuron 1"),
        ({"down_bias": spoilt((3,), (2,))}, "input 'down_bias' is NaN at column 2"),
        ({"down_scale": spoilt((4,), (0,))}, "input 'down_scale' is NaN at neuron 0"),
    ],
)
def test_nan_in_constants(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(NODE + message)):
        build(arrays(**changes))


def test_infinite_weights_are_numbers() -> None:
    down = np.ones((4, 3), np.float32)
    down[1, 1] = np.inf
    y, _ = build(arrays(down=down, down_bias=None, budget=None)).run(None, {"pre": np.ones((1, 4), np.float32)[[0, 0]]})
    np.testing.assert_array_equal(y, np.float32([[8, np.inf, 8]] * 2))


def test_two_vectors_disagree_before_the_size_is_known() -> None:
    given = arrays(up_bias=np.ones(5, np.float32))
    with pytest.raises(Exception, match=re.escape(NODE + "input 'down_scale' has shape [4], expected [F = 5]")):
        build(given, static=False, feeds=("pre", "down", "budget"))


def test_a_missing_required_input() -> None:
    with pytest.raises(Exception, match="SparseDown"):
        build({"pre": np.ones((2, 4), np.float32)})


def test_a_refused_call_leaves_the_session_usable() -> None:
    given = arrays()
    session = build(given, static=False)
    with pytest.raises(Exception, match="budget"):
        session.run(None, {"pre": given["pre"], "budget": np.ones(7, np.float32)})
    y, _ = session.run(None, {"pre": given["pre"], "budget": given["budget"]})
    np.testing.assert_array_equal(y, np.full((2, 3), 9, np.float32))


def test_bfloat16_weights_are_a_gpus_alone() -> None:
    bfloat16 = np.dtype("bfloat16")  # registered by ml_dtypes, which onnx imports
    with pytest.raises(Exception, match=re.escape(NODE)) as caught:
        build(arrays(down=np.ones((4, 3), bfloat16)))
    assert "input 'down' is bfloat16, expected float32, float16 or int8" in str(caught.value)


def test_the_cuda_operators_change_nothing_without_their_provider() -> None:
    session = build(arrays())
    assert session.get_providers() == ["CPUExecutionProvider"]
    y, active = session.run(None, {"pre": np.ones((2, 4), np.float32), "budget": np.ones(2, np.float32)})
    assert (y == 9).all()
    assert (active == 4).all()
