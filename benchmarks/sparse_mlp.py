"""Measure an MLP block as SparseMLP against ONNX Runtime's float32 block and its dynamic int8 one.

One thread unless ``--threads`` says otherwise; D 768, F 3072, ReLU, three neurons in a hundred active. Rows and
neurons are Gaussian in a common rotated basis whose variances fall off exponentially, which is what makes trained
blocks easy to screen: the fall is chosen so that the certified screen's candidates are 1.5 times the active
neurons, as trained weights with balanced channels give. Each neuron's bias is the quantile of its projections that
leaves the density. The predictor is the best linear one of its rank (projections on the leading directions of the
common basis), as two plain MatMuls in the graph (int8 by ``quantize_dynamic`` where it says so); its threshold keeps
99 % of the active neurons. It runs on a block whose variances fall faster, so that its candidates too are what was
measured for trained weights, 1 to 3 times the active neurons.

All sessions stay loaded and are timed in turns, so that a change of the machine's clock meets all of them.

    python benchmarks/sparse_mlp.py [--threads N] [--rows N ...] [--picture FILE]
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from harness import bars, machine, ratio, session, time_in_turns
from linear_predictors import RANK, RECALL, int8_weights
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

D_MODEL, D_FF, DENSITY = 768, 3072, 0.03
# Directions over which the variance falls to 1 / e, for the certified screen and for the predictor.
FALL, PREDICTED_FALL = 85.0, 30.0
SECONDS = 2.0  # the length of each group of measurements

Array = np.ndarray


@dataclass(frozen=True)
class Block:
    """A block's weights, neuron-major, and rows to run it on."""

    up: Array
    up_bias: Array
    down: Array
    basis: Array  # [D, D], the leading directions first
    rows: Array

    def pre(self) -> Array:
        """Return what the activation gets, in float64."""
        return self.rows.astype(np.float64) @ self.up.T.astype(np.float64) + self.up_bias


def make_block(
    rng: np.random.Generator, rows: int = 512, fall: float = FALL, d_model: int = D_MODEL, d_ff: int = D_FF
) -> Block:
    basis = np.linalg.qr(rng.standard_normal((d_model, d_model)))[0].T
    spread = np.exp(-0.5 * np.arange(d_model) / fall)
    spread *= np.sqrt(d_model / np.sum(spread**2))

    def draw(count: int) -> Array:
        return ((rng.standard_normal((count, d_model)) * spread) @ basis).astype(np.float32)

    x, up = draw(max(rows, 2048)), draw(d_ff) / np.float32(np.sqrt(d_model))
    bias = -np.quantile(x @ up.T, 1 - DENSITY, axis=0).astype(np.float32)
    down = (rng.standard_normal((d_ff, d_model)) / np.sqrt(d_ff)).astype(np.float32)
    return Block(up, bias, down, basis.astype(np.float32), x[:rows])


def model(nodes: list[onnx.NodeProto], constants: dict[str, Array], outputs: dict[str, int]) -> onnx.ModelProto:
    """Make a graph from x [rows, D] to outputs of a type each."""
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", "depth"])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def dense_model(block: Block) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["pre"]),
        helper.make_node("Add", ["pre", "up_bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "down"], ["y"]),
    ]
    constants = {"up": block.up.T, "up_bias": block.up_bias, "down": block.down}
    return model(nodes, constants, {"y": onnx.TensorProto.FLOAT})


_COUNTS = {"y": onnx.TensorProto.FLOAT, "active": onnx.TensorProto.INT32, "candidates": onnx.TensorProto.INT32}


def sparse_node(inputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node("SparseMLP", inputs, list(_COUNTS), name="block", domain="lazyneuron", **attributes)


def weight_constants(block: Block, kind: str) -> tuple[dict[str, Array], list[str]]:
    """Return the constants, and the node's inputs from up_scale on."""
    constants = {"up_bias": block.up_bias}
    if kind != "int8":
        return constants | {"up": block.up.astype(kind), "down": block.down.astype(kind)}, []
    for name, weights in (("up", block.up), ("down", block.down)):
        constants[name], constants[f"{name}_scale"] = int8_weights(weights)
    return constants, ["up_scale", "down_scale"]


def certified_model(block: Block, kind: str = "float32", miss_probability: float = 0.0) -> onnx.ModelProto:
    constants, scales = weight_constants(block, kind)
    inputs = ["x", "up", "down", "up_bias", "", "", "", "", *scales]
    node = sparse_node(inputs, mode="certified", activation="relu", miss_probability=miss_probability)
    return model([node], constants, _COUNTS)


def predictor_model(block: Block, kind: str = "float32") -> onnx.ModelProto:
    constants, scales = weight_constants(block, kind)
    leading = block.basis[:RANK]
    constants |= {"first": leading.T, "second": leading @ block.up.T}
    scores = block.rows @ constants["first"] @ constants["second"] + block.up_bias
    threshold = float(np.quantile(scores[block.pre() > 0], 1 - RECALL))
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["low"]),
        helper.make_node("MatMul", ["low", "second"], ["unbiased"]),
        helper.make_node("Add", ["unbiased", "up_bias"], ["scores"]),
        sparse_node(
            ["x", "up", "down", "up_bias", "", "", "scores", "", *scales],
            mode="predictor",
            activation="relu",
            score_threshold=threshold,
        ),
    ]
    return model(nodes, constants, _COUNTS)


def to_int8(dense: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise a model's MatMuls as ONNX Runtime does for dynamic int8."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(dense, before)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1})
        return onnx.load(after)


def check(name: str, run: onnxruntime.InferenceSession, block: Block, recall: float) -> tuple[float, float]:
    """Compare with float64; return density and candidates over active. Stops on a wrong answer."""
    y, active, candidates = run.run(None, {"x": block.rows})
    hidden = np.maximum(block.pre(), 0)
    if recall == 1.0 and np.abs(y - hidden @ block.down).max() > 1e-4:
        raise SystemExit(f"{name}: the operator's answer is wrong; nothing was timed")
    if active.sum() < recall * 0.999 * (hidden > 0).sum():
        raise SystemExit(f"{name}: active neurons are missing; nothing was timed")
    return float(active.mean() / D_FF), float(candidates.sum() / active.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 64, 1])
    parser.add_argument("--picture", type=Path, help="a .png or .svg file to draw into")
    arguments = parser.parse_args()
    block = make_block(np.random.default_rng(0))
    predicted = make_block(np.random.default_rng(1), fall=PREDICTED_FALL)
    dense = dense_model(block)
    graphs = {
        "ORT float32": dense,
        "ORT int8": to_int8(dense),
        "certified": certified_model(block),
        "certified f16": certified_model(block, "float16"),
        "certified int8": certified_model(block, "int8"),
        "predictor": predictor_model(predicted),
        "predictor int8": to_int8(predictor_model(predicted, "int8")),
    }
    sessions = {name: session(graph, arguments.threads) for name, graph in graphs.items()}
    rows_of = {name: predicted.rows if name.startswith("predictor") else block.rows for name in sessions}
    print(machine(arguments.threads))
    print(f"D {D_MODEL}, F {D_FF}, float32 unless named, {arguments.threads} thread(s)")
    for name, run in sessions.items():
        if not name.startswith("ORT"):
            exact = name == "certified"  # other weights are not those that the check knows
            density, extra = check(
                name, run, predicted if name.startswith("predictor") else block, 1.0 if exact else 0.9
            )
            print(f"{name}: density {density:.1%}, candidates {extra:.2f} times the active")
    groups = {}
    for rows in arguments.rows:
        work = {name: partial(run.run, ["y"], {"x": rows_of[name][:rows]}) for name, run in sessions.items()}
        times = time_in_turns(work, SECONDS * len(work))
        print(f"\n{rows} rows{'':12} {'median ms':>10} {'best ms':>9}  {'against float32':>24}  {'against int8':>24}")
        for name, values in times.items():
            against = [str(ratio(times[base], values)) for base in ("ORT float32", "ORT int8")]
            print(f"{name:20} {1e3 * statistics.median(values):10.3f} {1e3 * min(values):9.3f}", end="  ")
            print(f"{against[0]:>24}  {against[1]:>24}")
        names = [name for name in times if name != "ORT float32"]
        groups[f"{rows} rows"] = {name: ratio(times["ORT float32"], times[name]) for name in names}
    if arguments.picture:
        title = f"MLP block, {D_MODEL} / {D_FF}, {DENSITY:.0%} active\n{machine(arguments.threads)}"
        bars(arguments.picture, title, {"": groups}, "ONNX Runtime float32", lambda name: not name.startswith("ORT"))


if __name__ == "__main__":
    main()
