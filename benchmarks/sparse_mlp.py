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
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from harness import LEAST_RUNS, bars, machine, ratio

from lazyneuron.engine.planted import PREDICTED_FALL, PlantedBlock, plant
from lazyneuron.engine.session import open_session
from lazyneuron.engine.timing import time_in_turns
from lazyneuron.exporters.bench import graphs

D_MODEL, D_FF, DENSITY = 768, 3072, 0.03
SECONDS = 2.0  # the length of each group of measurements


def check(name: str, run: onnxruntime.InferenceSession, block: PlantedBlock, recall: float) -> tuple[float, float]:
    """Compare with float64; return density and candidates over active. Stops on a wrong answer."""
    y, active, candidates = run.run(None, {"x": block.rows})
    hidden = block.hidden()
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
    (block,) = plant(np.random.default_rng(0), D_MODEL, D_FF, [DENSITY])
    (predicted,) = plant(np.random.default_rng(1), D_MODEL, D_FF, [DENSITY], fall=PREDICTED_FALL)
    dense = graphs.dense(block)
    models = {
        "ORT float32": dense,
        "ORT int8": graphs.to_int8(dense),
        "certified": graphs.certified(block),
        "certified f16": graphs.certified(block, "float16"),
        "certified int8": graphs.certified(block, "int8"),
        "predictor": graphs.predictor(predicted),
        "predictor int8": graphs.predictor(predicted, "int8"),
    }
    sessions = {
        name: open_session(model.SerializeToString(), threads=arguments.threads, spinning=True)
        for name, model in models.items()
    }
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
        times = time_in_turns(work, seconds=SECONDS, least=LEAST_RUNS)
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
