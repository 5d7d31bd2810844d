"""One-node models of SparseDown, and the bounds that its answers must keep."""

import contextlib
import ctypes
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import lazyneuron
from lazyneuron.engine import reference

INPUTS = ("pre", "down", "up_bias", "down_bias", "budget", "down_scale")
# All that exist anywhere; a machine has some of them.
INSTRUCTION_SETS = ("scalar", "sse2", "avx2", "avx512", "avx512vnni", "neon")

Arrays = Mapping[str, np.ndarray]


def library() -> ctypes.CDLL:
    """The operator library's own C functions."""
    loaded = ctypes.CDLL(str(lazyneuron.operator_library()))
    loaded.lazyneuron_instruction_sets.restype = ctypes.c_char_p
    loaded.lazyneuron_kernel_calls.restype = ctypes.c_uint64
    loaded.lazyneuron_kernel_calls.argtypes = [ctypes.c_char_p]
    return loaded


def supported() -> list[str]:
    """This machine's instruction sets, the best first."""
    return library().lazyneuron_instruction_sets().decode().split(", ")


def calls(name: str) -> int:
    """How many tiles a set's kernels have worked on."""
    return library().lazyneuron_kernel_calls(name.encode())


@contextlib.contextmanager
def forced(name: str | None) -> Iterator[None]:
    """Build sessions for one instruction set."""
    before = os.environ.pop("LAZYNEURON_ISA", None)
    if name is not None:
        os.environ["LAZYNEURON_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("LAZYNEURON_ISA", None)
        if before is not None:
            os.environ["LAZYNEURON_ISA"] = before


Shape = list[int | str | None] | None


def value_info(name: str, array: np.ndarray, shapes: Mapping[str, Shape]) -> onnx.ValueInfoProto:
    """A graph input of an array's type; a shape of None leaves even the rank open, none at all its dimensions."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, shapes.get(name, [None] * array.ndim))


def model(
    feeds: Arrays,
    constants: Arrays,
    shapes: Mapping[str, Shape] | None = None,
    name: str = "block/mlp",
    **attributes: Any,
) -> bytes:
    """A model of one SparseDown node; an input that is in neither mapping is left out."""
    given = {**feeds, **constants}
    names = [key if key in given else "" for key in INPUTS]
    while names and not names[-1]:
        names.pop()
    node = helper.make_node("SparseDown", names, ["y", "active"], name=name, domain="lazyneuron", **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [value_info(key, array, shapes or {}) for key, array in feeds.items()],
        [
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
            helper.make_tensor_value_info("active", onnx.TensorProto.INT32, None),
        ],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()


def session(serialized: bytes, threads: int = 1) -> ort.InferenceSession:
    """Open a model with the operator library."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # refusals are asserted on, not printed
    options.register_custom_ops_library(str(lazyneuron.operator_library()))
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of `reference.sparse_down`."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]

    def run(self, isa: str | None = None, threads: int = 1, **changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the operator; `pre` and `budget` are fed, the weights are constants."""
        arrays = {**self.arrays, **changes}
        feeds = {key: arrays[key] for key in ("pre", "budget") if key in arrays}
        constants = {key: array for key, array in arrays.items() if key not in feeds}
        with forced(isa):
            opened = session(model(feeds, constants, **self.attributes), threads)
        y, active = opened.run(["y", "active"], feeds)
        return y, active

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """The reference's answer."""
        return reference.sparse_down(**self.arrays, **self.attributes)

    def tolerance(self) -> np.ndarray:
        """Per element: eps times the sum of the terms' magnitudes, times how many roundings can add up.

        A value of gelu, gelu_tanh or silu is itself some ulp off, of which `activation_error` says how many.
        The reference computes that sum: magnitudes in, no bias, nothing that could cancel.
        """
        arrays = self.arrays
        neurons = arrays["down"].shape[0]
        biased = arrays["pre"] + arrays.get("up_bias", np.float32(0))
        value = np.abs(reference.activate(biased.astype(np.float32), self.attributes.get("activation", "relu")))
        weights = np.abs(arrays["down"].astype(np.float64))
        if "down_scale" in arrays:
            weights = weights * np.abs(arrays["down_scale"].astype(np.float64))[:, None]
        size = np.where(np.isfinite(value), value, 0).astype(np.float64) @ weights
        size = size + np.abs(arrays["down_bias"]) if "down_bias" in arrays else size
        eps = np.finfo(np.float32).eps
        tiny = np.finfo(np.float32).smallest_subnormal
        per_term = eps * (neurons + 3) / 2 + activation_error(biased, self.attributes.get("activation", "relu"))
        return per_term * size + (neurons + 1) * tiny * (1 + weights.max())


def activation_error(x: np.ndarray, activation: str) -> float:
    """The largest relative error that an activation's kernel may make on these inputs.

    gelu and silu keep 5 ulp; gelu_tanh's exponent 2u is itself rounded, which costs 2u more.
    """
    if activation in ("relu", "relu2", "identity"):
        return 0.0
    ulps = 5.0
    if activation == "gelu_tanh":
        finite = np.abs(x[np.isfinite(x)], dtype=np.float64).clip(max=20)
        u = np.sqrt(2 / np.pi) * (finite + 0.044715 * finite**3)
        ulps += 2 * min(100.0, float(2 * u.max(initial=0)))
    return ulps * float(np.finfo(np.float32).eps)


def assert_close(case: Case, y: np.ndarray, expected: np.ndarray) -> None:
    """Equal within the bound where finite; the same infinities and NaNs elsewhere."""
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    bound = np.broadcast_to(case.tolerance(), y.shape)
    over = np.abs(y[finite].astype(np.float64) - expected[finite]) > bound[finite]
    assert not over.any(), (y[finite][over], expected[finite][over], bound[finite][over])
