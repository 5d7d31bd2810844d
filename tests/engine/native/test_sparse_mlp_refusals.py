"""SparseMLP refuses what does not fit, in words that name the node, what was got and what was expected."""

import re
from typing import Any

import numpy as np
import pytest

from tests.engine.native.mlp import Case

NODE = "SparseMLP node 'block/mlp': "


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def spoilt(shape: tuple[int, ...], position: tuple[int, ...], value: float = np.nan) -> np.ndarray:
    array = ones(*shape)
    array[position] = value
    return array


def case(changes: dict[str, np.ndarray | None], **attributes: Any) -> Case:
    """D = 2, F = 4, D_out = 3, five rows; None leaves an input out."""
    everything = {"x": ones(5, 2), "up": ones(4, 2), "down": ones(4, 3)}
    arrays = {key: array for key, array in {**everything, **changes}.items() if array is not None}
    return Case(arrays, attributes)


SCORES = {"scores": ones(5, 4)}
CHANGES = [
    ({"up": ones(4, 3)}, {}, "input 'x' has shape [5, 2], expected [..., D] with D = 3 as 'up' has it"),
    ({"up": ones(4)}, {}, "input 'up' has shape [4], expected [F, D]"),
    ({"up": ones(4, 0)}, {}, "input 'up' has shape [4, 0], expected F and D of at least 1"),
    ({"down": ones(5, 3)}, {}, "input 'down' has shape [5, 3], expected [F = 4, D_out]"),
    ({"up_bias": ones(5)}, {}, "input 'up_bias' has shape [5], expected [F = 4]"),
    ({"down_bias": ones(4)}, {}, "input 'down_bias' has shape [4], expected [D_out = 3]"),
    (
        {"budget": ones(4)},
        {},
        "input 'budget' has shape [4], expected [5], the shape of 'x' without its last dimension",
    ),
    ({"screen_shift": ones(4)}, {}, "input 'screen_shift' has shape [4], expected [D = 2]"),
    ({"screen_scale": ones(2, 1)}, {}, "input 'screen_scale' has shape [2, 1], expected [D = 2]"),
    (
        {"scores": ones(5, 3)},
        {"mode": "predictor"},
        "input 'scores' has shape [5, 3], expected [5, 4], the rows of 'x' and F of 'up'",
    ),
    (SCORES | {"gate": ones(4, 3)}, {"mode": "predictor"}, "input 'gate' has shape [4, 3], expected [F = 4, D = 2]"),
    ({"x": ones(5, 2).astype(np.float16)}, {}, "input 'x' is float16, expected float32"),
    ({"up": ones(4, 2).astype(np.float64)}, {}, "input 'up' is float64, expected float32, float16 or int8"),
    (
        {"up": ones(4, 2).astype(np.int8)},
        {},
        "input 'up' is int8 and there is no input 'up_scale', expected one float32 for each neuron",
    ),
    (
        SCORES | {"gate": ones(4, 2).astype(np.int8)},
        {"mode": "predictor"},
        "input 'gate' is int8 and there is no input 'gate_scale', expected one float32 for each neuron",
    ),
    ({"up": spoilt((4, 2), (3, 1))}, {}, "input 'up' is NaN at neuron 3, column 1, expected a number"),
    ({"up_bias": spoilt((4,), (2,))}, {}, "input 'up_bias' is NaN at neuron 2, expected a number"),
    ({"screen_shift": spoilt((2,), (1,))}, {}, "input 'screen_shift' is NaN at column 1, expected a number"),
    (
        {"screen_scale": spoilt((2,), (1,), 0)},
        {},
        "input 'screen_scale' is 0.000000 at column 1, expected a finite number other than 0",
    ),
    ({}, {"mode": "dense"}, "attribute 'mode' is 'dense', expected one of certified, predictor, gate"),
    ({}, {"activation": "gelu"}, "attribute 'activation' is 'gelu', expected relu or relu2 with mode 'certified'"),
    ({}, {"top_k": 5}, "attribute 'top_k' is 5, expected at most F = 4, the number of neurons"),
    ({}, {"top_k": -1}, "attribute 'top_k' is -1, expected 0 (no cap) or the most neurons to keep in a row"),
    ({}, {"miss_probability": 1.0}, "attribute 'miss_probability' is 1.000000, expected 0 (the deterministic bound)"),
    ({}, {"miss_probability": -0.5}, "attribute 'miss_probability' is -0.500000, expected 0"),
    (SCORES, {"mode": "gate", "score_threshold": float("inf")}, "attribute 'score_threshold' is inf, expected"),
    ({}, {"mode": "predictor"}, "input 'scores' is missing, expected [..., F] with mode 'predictor' or 'gate'"),
    (SCORES, {}, "input 'scores' is given with mode 'certified', which has no use for it"),
    ({"gate": ones(4, 2)}, {}, "input 'gate' is given with mode 'certified', which has no use for it"),
    (SCORES | {"gate": ones(4, 2)}, {"mode": "gate"}, "input 'gate' is given with mode 'gate', where 'scores' is"),
]


@pytest.mark.parametrize(("changes", "attributes", "text"), CHANGES)
def test_it_is_refused(changes: dict[str, np.ndarray | None], attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(Exception, match=re.escape(NODE + text)):
        case(changes, **attributes).run()


def test_a_depth_that_the_screen_cannot_sum_is_refused() -> None:
    wide = {"x": ones(1, 65537), "up": ones(4, 65537)}
    with pytest.raises(Exception, match=re.escape("D is 65537, expected at most 65536 with mode 'certified'")):
        case(wide).run()
