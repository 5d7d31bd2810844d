"""Measure what a served artifact keeps in memory, against a dense float32 session of the same model.

The model is `planted_t5.py`'s encoder. Each row is a fresh process that opens the model, answers some requests and
reads how much of it is resident (`Rss`, and of it `Private`: pages that a second process of the same model would not
share) less what the process had before it opened the model. The dense session is opened with its weights in the ONNX
file, and in a file beside it, as artifacts have them. Graphs with the operators' weights in float16 and int8 are made
here from the float32 artifact, since the exporter keeps a checkpoint's own precision.

    make memory            # or python benchmarks/memory.py [--layers N]
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from encoder_engines import token_ids
from harness import machine
from linear_predictors import int8_weights, store
from planted_t5 import plant

import lazyneuron
from lazyneuron.engine.artifact import MANIFEST_FILE, MODEL_FILE, Manifest, digest
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.sources import read_checkpoint

SHAPES = ((1, 16), (8, 128))
_WEIGHTS = {"SparseDown": {"down": (1, 5)}, "SparseMLP": {"up": (1, 8), "down": (2, 9)}}
"""Operator -> weight -> its place among the inputs, and its scale's."""
_IN_PROCESS = """
import gc, json, sys
import numpy as np, onnxruntime
import lazyneuron
from lazyneuron.engine.session import open_session

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    kib = {name: int(value.split()[0]) for name, value in fields.items()}
    return kib["Rss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024

path, kind, shapes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
before = resident()
if kind == "artifact":
    model = lazyneuron.load(path, threads=1)
    run = lambda ids: model.run([model.request({"input_ids": row[None]}) for row in ids])
else:
    session = open_session(path, threads=1, sparse=False)
    run = lambda ids: session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
for batch, length in shapes:
    for repeat in range(3):
        run(np.random.default_rng(repeat).integers(3, 4096, (batch, length)))
gc.collect()
print(json.dumps([after - b for after, b in zip(resident(), before)]))
"""


def narrowed(source: Path, target: Path, kind: str) -> None:
    """Copy an artifact with its operators' weights in another type, and its manifest made to fit."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(f"{MODEL_FILE}*"))
    model = ir.load(source / MODEL_FILE)
    for node in list(model.graph):
        for place, scale_place in _WEIGHTS.get(node.op_type, {}).values():
            _narrow(model.graph, node, place, scale_place, kind)
    passes.RemoveUnusedNodesPass()(model)
    files = save(model, target / MODEL_FILE)
    manifest = Manifest.model_validate_json((source / MANIFEST_FILE).read_bytes())
    digests = {**manifest.files, **{path.name: digest(path) for path in files}}
    changed = manifest.model_copy(update={"files": digests})
    (target / MANIFEST_FILE).write_text(changed.model_dump_json())


def _narrow(graph: ir.Graph, node: ir.Node, place: int, scale_place: int, kind: str) -> None:
    weight = node.inputs[place]
    values = weight.const_value.numpy()
    if kind == "float16":
        node.replace_input_with(place, store(graph, f"{weight.name}.float16", values.astype(np.float16)))
        return
    codes, scale = int8_weights(values)
    node.replace_input_with(place, store(graph, f"{weight.name}.int8", codes))
    if len(node.inputs) <= scale_place:
        node.resize_inputs(scale_place + 1)
    node.replace_input_with(scale_place, store(graph, f"{weight.name}.scale", scale))


def resident(path: Path, kind: str) -> tuple[float, float]:
    """Return Rss and its private part, in MiB, of a fresh process."""
    command = [sys.executable, "-c", _IN_PROCESS, path, kind, json.dumps(SHAPES)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{path.name}: {(done.stderr.strip().splitlines() or ['it ended'])[-1]}")
    rss, private = json.loads(done.stdout)
    return rss, private


def make(folder: Path, layers: int) -> dict[str, tuple[Path, str]]:
    """Write the models; return each row's path and kind."""
    ids = token_ids(24, 128)
    np.savez(folder / "calibration.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    with quiet():
        plant(folder / "checkpoint", layers=layers)
        dense = read_checkpoint(str(folder / "checkpoint")).model
        save(dense, folder / "beside.onnx")
        onnx.save(onnx.load(folder / "beside.onnx"), folder / "embedded.onnx")
    rows = {
        "dense, weights in the file": (folder / "embedded.onnx", "dense"),
        "dense, weights beside it": (folder / "beside.onnx", "dense"),
    }
    for mode in ("exact", "certified"):
        with quiet():
            made = lazyneuron.export(
                folder / "checkpoint", folder / mode, calibration=folder / "calibration.npz", mode=mode
            ).path
        rows[f"{mode}, float32"] = (made, "artifact")
        for kind in ("float16", "int8"):
            target = folder / f"{mode}-{kind}"
            narrowed(made, target, kind)
            rows[f"{mode}, {kind}"] = (target, "artifact")
        with quiet():
            rest = lazyneuron.export(
                folder / "checkpoint",
                folder / f"{mode}-rest",
                calibration=folder / "calibration.npz",
                mode=mode,
                quantize="int8",
            ).path
        rows[f"{mode}, float32, rest int8"] = (rest, "artifact")
    return rows


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--layers", default=12, show_default=True, type=click.IntRange(1, 12))
def main(layers: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        rows = make(Path(scratch), layers)
        click.echo(f"T5-base-shaped encoder, {layers} layers; {machine(1)}; MiB over the process before it")
        click.echo(f"{'':28} {'on disk':>8} {'Rss':>8} {'private':>8}  Rss over dense (in the file, beside)")
        base: list[float] = []
        for name, (path, kind) in rows.items():
            files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
            disk = sum(file.stat().st_size for file in files) / 2**20
            rss, private = resident(path, kind)
            base += [rss] if kind == "dense" else []
            ratios = ", ".join(f"{rss / dense:.2f}" for dense in base) if kind == "artifact" else ""
            click.echo(f"{name:28} {disk:8.0f} {rss:8.0f} {private:8.0f}  {ratios}")


if __name__ == "__main__":
    main()
