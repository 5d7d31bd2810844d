"""Measure how much faster than ONNX Runtime's dense MatMul SparseDown is, at which density.

Times the down projection alone, on one thread: ONNX Runtime's float32 MatMul against SparseDown on the same
hidden layer, at the shape of a base-sized Transformer (D 768, F 3072). SparseDown's time includes its pass over
all F pre-activations and the ReLU, which the dense figure leaves out. The weights stay in memory between runs,
as in serving; the two are timed in turns, so that a change of the machine's clock meets both.

    python benchmarks/sparse_down.py [--picture FILE]
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from harness import LEAST_RUNS, Ratio, curves, machine, ratio
from onnx import helper

from lazyneuron.engine import reference
from lazyneuron.engine.session import open_session
from lazyneuron.engine.timing import time_in_turns

D_MODEL, D_FF = 768, 3072
ROWS = (512, 1)
DENSITIES = (0.03, 0.063, 0.10, 0.20, 0.30, 0.40, 0.50, 0.70, 1.0)
SECONDS = 0.75  # how long each is timed in a measurement

Array = np.ndarray


def down_model(node: onnx.NodeProto, weights: Array) -> onnx.ModelProto:
    """Make a one-node model."""
    graph = helper.make_graph(
        [node],
        "down",
        [helper.make_tensor_value_info("pre", onnx.TensorProto.FLOAT, ["rows", len(weights)])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", weights.shape[1]])],
        [onnx.numpy_helper.from_array(weights, "down")],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def hidden(rows: int, density: float, rng: np.random.Generator, d_ff: int = D_FF) -> Array:
    """Pre-activations of which a share is positive."""
    size = np.abs(rng.standard_normal((rows, d_ff))) + 1e-3
    return np.where(rng.random((rows, d_ff)) < density, size, -size).astype(np.float32)


def _session(node: onnx.NodeProto, weights: Array) -> onnxruntime.InferenceSession:
    return open_session(down_model(node, weights).SerializeToString(), threads=1)


def compare(weights: Array, rows: int, density: float, rng: np.random.Generator) -> Ratio:
    """Check one case, then time it and print a line."""
    dense = _session(helper.make_node("MatMul", ["pre", "down"], ["y"]), weights)
    node = helper.make_node("SparseDown", ["pre", "down"], ["y", "active"], domain="lazyneuron")
    sparse = _session(node, weights)
    pre = hidden(rows, density, rng)
    rectified = np.maximum(pre, 0)
    (y,) = sparse.run(["y"], {"pre": pre})
    expected, _ = reference.sparse_down(pre, weights)
    bound = 4 * np.finfo(np.float32).eps * D_FF * (rectified @ np.abs(weights))
    if not np.all(np.abs(y - expected) <= bound):
        raise SystemExit("the operator's answer is wrong; nothing was timed")
    work = {"dense": partial(dense.run, ["y"], {"pre": rectified}), "sparse": partial(sparse.run, ["y"], {"pre": pre})}
    times = time_in_turns(work, seconds=SECONDS, least=LEAST_RUNS)
    found = ratio(times["dense"], times["sparse"])
    milliseconds = [1e3 * statistics.median(values) for values in times.values()]
    print(
        f"{rows:5d} {density:8.1%} {milliseconds[0]:10.3f} {milliseconds[1]:10.3f} "
        f"{found.middle:8.2f}  ({found.low:.2f} to {found.high:.2f}, {len(times['dense'])} runs)"
    )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="a .png or .svg file to draw into")
    picture = parser.parse_args().picture
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((D_FF, D_MODEL)) / np.sqrt(D_FF)).astype(np.float32)
    print(machine(1))
    print(f"down projection, D {D_MODEL}, F {D_FF}, float32; median (quartiles)")
    print(f"{'rows':>5} {'density':>8} {'dense ms':>10} {'sparse ms':>10} {'ratio':>8}")
    series = {f"{rows} row(s)": {d: compare(weights, rows, d, rng) for d in DENSITIES} for rows in ROWS}
    if picture:
        curves(picture, f"SparseDown, {D_FF} to {D_MODEL}\n{machine(1)}", series, "neurons active, %", "dense MatMul")


if __name__ == "__main__":
    main()
