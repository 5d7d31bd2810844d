"""The vectorised activations against float64, over all of float32's useful range, and against PyTorch."""

import numpy as np
import pytest

from lazyneuron.engine import reference
from tests.engine.native.operators import Case, activation_error


def evaluate(x: np.ndarray, activation: str, isa: str) -> np.ndarray:
    """The operator's values: an identity matrix behind the activation hands them out unchanged."""
    rows = x.reshape(-1, 64)
    return Case({"pre": rows, "down": np.eye(64, dtype=np.float32)}, {"activation": activation}).run(isa)[0].reshape(-1)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_accuracy(isa: str, activation: str) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate(
        [
            np.linspace(-120, 20, 64 * 1024),
            np.linspace(-15, 15, 64 * 1024),
            random.choice([-1, 1], 64 * 256) * 10.0 ** random.uniform(-44, 38, 64 * 256),
        ]
    ).astype(np.float32)
    expected = reference.activate(x, activation).astype(np.float64)
    got = evaluate(x, activation, isa).astype(np.float64)
    # Subnormal results have an absolute error instead: exp's last bit times x.
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    near = np.abs(x) < 4
    for part, bound in ((near, activation_error(x[near], activation)), (~near, activation_error(x, activation))):
        allowed = bound * np.abs(expected[part]) + smallest * (1 + np.minimum(np.abs(x[part]), 128))
        worst = np.max(np.abs(got[part] - expected[part]) / allowed)
        assert worst <= 1, (activation, worst)


@pytest.mark.parametrize("activation", list(reference.ACTIVATIONS))
def test_infinities_and_nan(isa: str, activation: str) -> None:
    down = np.ones((1, 1), np.float32)
    x = np.float32([[np.inf], [-np.inf], [np.nan], [0], [-0.0]])
    y, active = Case({"pre": x, "down": down}, {"activation": activation}).run(isa)
    expected, count = reference.sparse_down(x, down, activation=activation)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(active, count)
