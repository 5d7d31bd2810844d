"""One-node models of SparseMLP, and the bounds that its answers must keep."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from lazyneuron.engine import reference
from tests.engine.native import operators
from tests.engine.native.operators import Arrays, Shape

INPUTS = (
    "x",
    "up",
    "down",
    "up_bias",
    "down_bias",
    "budget",
    "scores",
    "gate",
    "up_scale",
    "down_scale",
    "gate_scale",
    "screen_shift",
    "screen_scale",
)
FED = ("x", "budget", "scores")
OUTPUTS = {"y": onnx.TensorProto.FLOAT, "active": onnx.TensorProto.INT32, "candidates": onnx.TensorProto.INT32}


def model(feeds: Arrays, constants: Arrays, shapes: dict[str, Shape] | None = None, **attributes: Any) -> bytes:
    """A model of one SparseMLP node; an input that is in neither mapping is left out."""
    names = [key if key in {**feeds, **constants} else "" for key in INPUTS]
    while names and not names[-1]:
        names.pop()
    node = helper.make_node("SparseMLP", names, list(OUTPUTS), name="block/mlp", domain="lazyneuron", **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [operators.value_info(key, array, shapes or {}) for key, array in feeds.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in OUTPUTS.items()],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of `reference.sparse_mlp`."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]

    def open(self, isa: str | None = None, threads: int = 1, fed: tuple[str, ...] = FED) -> ort.InferenceSession:
        """Build a session; what is not fed is a constant."""
        feeds = {key: array for key, array in self.arrays.items() if key in fed}
        constants = {key: array for key, array in self.arrays.items() if key not in fed}
        with operators.forced(isa):
            return operators.session(model(feeds, constants, **self.attributes), threads)

    def run(
        self, isa: str | None = None, threads: int = 1, fed: tuple[str, ...] = FED
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the operator."""
        feeds = {key: array for key, array in self.arrays.items() if key in fed}
        y, active, candidates = self.open(isa, threads, fed).run(list(OUTPUTS), feeds)
        return y, active, candidates

    def rows(self, rows: list[int] | slice) -> "Case":
        """The same block on some of its rows; leading dimensions must be one."""
        return Case({key: array[rows] if key in FED else array for key, array in self.arrays.items()}, self.attributes)

    def expected(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The reference's answer; its candidates are the fewest in certified mode."""
        return reference.sparse_mlp(**self.arrays, **self.attributes)


def missed(case: Case, active: np.ndarray, candidates: np.ndarray) -> int:
    """How many clearly active neurons a certified run without a cap has missed.

    Clearly: above the threshold by more than the float32 sum of the dot product can be off. A row that had every
    neuron computed cannot have missed one: what it lacks has overflowed.
    """
    pre, error = pre_activations(case)
    threshold = case.attributes.get("threshold", 0.0)
    if case.attributes.get("activation") == "relu2":
        threshold = np.sqrt(max(threshold, 2.0**-149)) * (1 + 1e-6)
    fewest = (pre - error > threshold).sum(axis=1)
    lost = np.maximum(fewest - active.reshape(-1), 0)
    return int(lost[candidates.reshape(-1) < len(case.arrays["up"])].sum())


def assert_close(case: Case, y: np.ndarray, expected: np.ndarray) -> None:
    """Equal within what float32 sums may be off, for values that are exact or a few ulp off; alike where not finite."""
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    down = np.abs(case.arrays["down"].astype(np.float64))
    if "down_scale" in case.arrays:
        down = down * np.abs(case.arrays["down_scale"])[:, None]
    # Without signs nothing cancels, and the sum tells how large its terms are.
    size = (np.abs(values(case)) @ down + np.abs(case.arrays.get("down_bias", 0.0))).reshape(y.shape)
    up_size, error = pre_activations(case)
    slope = 2 * np.abs(up_size) if case.attributes.get("activation") == "relu2" else 1.0
    moved = (np.where(np.isfinite(error), error, 0) * np.where(np.isfinite(slope), slope, 0) @ down).reshape(y.shape)
    eps = np.finfo(np.float32).eps
    bound = eps * (len(down) + 12) * (size + 1e-30) + moved
    over = np.abs(y[finite].astype(np.float64) - expected[finite]) > bound[finite]
    assert not over.any(), (y[finite][over], expected[finite][over], bound[finite][over])


def values(case: Case) -> np.ndarray:
    """What each neuron contributes [rows, F], 0 where it is not kept or not finite: the output of an identity."""
    arrays = {key: array for key, array in case.arrays.items() if key not in ("down", "down_scale", "down_bias")}
    neurons = len(case.arrays["up"])
    with np.errstate(invalid="ignore"):
        kept, _, _ = reference.sparse_mlp(**arrays, down=np.eye(neurons, dtype=np.float32), **case.attributes)
    return np.where(np.isfinite(kept), kept, 0).astype(np.float64).reshape(-1, neurons)


def pre_activations(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Every neuron's projection in float64 [rows, F], and how far a float32 one may lie from it."""
    arrays = case.arrays
    rows = arrays["x"].reshape(-1, arrays["x"].shape[-1]).astype(np.float64)
    up = arrays["up"].astype(np.float64)
    if "up_scale" in arrays:
        up = up * arrays["up_scale"].astype(np.float64)[:, None]
    bias = arrays["up_bias"].astype(np.float64) if "up_bias" in arrays else np.zeros(len(up))
    pre, size = rows @ up.T + bias, np.abs(rows) @ np.abs(up).T
    error = (up.shape[1] + 4) * 2.0**-24 * size + 2.0**-23 * np.abs(pre) + up.shape[1] * 2.0**-149
    return pre, error
