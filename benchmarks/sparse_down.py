"""Measure how much faster than ONNX Runtime's dense MatMul SparseDown is, at which density.

Times the down projection alone, on one thread: ONNX Runtime's float32 MatMul against SparseDown on the same
hidden layer, at the shape of a base-sized Transformer (D 768, F 3072). SparseDown's time includes its pass over
all F pre-activations and the ReLU, which the dense figure leaves out. The weights stay in memory between runs,
as in serving; the two are timed in turns, so that a change of the machine's clock meets both.

    python benchmarks/sparse_down.py
"""

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from lazyneuron.engine import reference

LIBRARY = Path(__file__).resolve().parent.parent / "engine" / "lib" / "liblazyneuron_ops.so"
D_MODEL, D_FF = 768, 3072
ROWS = (512, 1)
DENSITIES = (0.03, 0.063, 0.10, 0.20, 0.30, 0.40, 0.50, 0.70, 1.0)
SECONDS = 1.5  # each measurement's length

Array = np.ndarray


def session(node: onnx.NodeProto, weights: Array) -> onnxruntime.InferenceSession:
    """Make a one-node model on one thread."""
    graph = helper.make_graph(
        [node],
        "down",
        [helper.make_tensor_value_info("pre", onnx.TensorProto.FLOAT, ["rows", D_FF])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", D_MODEL])],
        [onnx.numpy_helper.from_array(weights, "down")],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(LIBRARY))
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def hidden(rows: int, density: float, rng: np.random.Generator) -> Array:
    """Pre-activations of which a share is positive."""
    size = np.abs(rng.standard_normal((rows, D_FF))) + 1e-3
    return np.where(rng.random((rows, D_FF)) < density, size, -size).astype(np.float32)


def alternate(first: Callable[[], object], second: Callable[[], object]) -> list[tuple[float, float]]:
    """Time two functions in turns, in seconds, after a warm-up."""
    pairs = []
    first(), second()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(pairs) < 9:
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        pairs.append((middle - start, time.perf_counter() - middle))
    return pairs


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def processor() -> str:
    """Return the CPU's name, as far as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def instruction_set() -> str:
    """Return the name of the instruction set that the operator runs on."""
    library = ctypes.CDLL(str(LIBRARY))
    library.lazyneuron_instruction_sets.restype = ctypes.c_char_p
    names: bytes = library.lazyneuron_instruction_sets()
    return os.environ.get("LAZYNEURON_ISA") or names.decode().split(",")[0]


def compare(weights: Array, rows: int, density: float, rng: np.random.Generator) -> None:
    """Check one case, then time it and print a line."""
    dense = session(helper.make_node("MatMul", ["pre", "down"], ["y"]), weights)
    node = helper.make_node("SparseDown", ["pre", "down"], ["y", "active"], domain="lazyneuron")
    sparse = session(node, weights)
    pre = hidden(rows, density, rng)
    rectified = np.maximum(pre, 0)
    (y,) = sparse.run(["y"], {"pre": pre})
    expected, _ = reference.sparse_down(pre, weights)
    bound = 4 * np.finfo(np.float32).eps * D_FF * (rectified @ np.abs(weights))
    if not np.all(np.abs(y - expected) <= bound):
        raise SystemExit("the operator's answer is wrong; nothing was timed")
    times = alternate(
        lambda: dense.run(["y"], {"pre": rectified}),
        lambda: sparse.run(["y"], {"pre": pre}),
    )
    low, ratio, high = quartiles([d / s for d, s in times])
    milliseconds = [1e3 * statistics.median(t) for t in zip(*times, strict=True)]
    print(
        f"{rows:5d} {density:8.1%} {milliseconds[0]:10.3f} {milliseconds[1]:10.3f} "
        f"{ratio:8.2f}  ({low:.2f} to {high:.2f}, {len(times)} runs)"
    )


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((D_FF, D_MODEL)) / np.sqrt(D_FF)).astype(np.float32)
    print(f"{processor()}, {instruction_set()}, ONNX Runtime {onnxruntime.__version__}, one thread")
    print(f"down projection, D {D_MODEL}, F {D_FF}, float32; median (quartiles)")
    print(f"{'rows':>5} {'density':>8} {'dense ms':>10} {'sparse ms':>10} {'ratio':>8}")
    for rows in ROWS:
        for density in DENSITIES:
            compare(weights, rows, density, rng)


if __name__ == "__main__":
    main()
