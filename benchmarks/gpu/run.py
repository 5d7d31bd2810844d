"""Measure MLP blocks and a T5-base-shaped encoder on a GPU, against dense fp16 and the device's limits.

Blocks of 768 / 3072 and 4096 / 16384 in every mode, over rows and density, against ONNX Runtime's dense block (cuBLAS)
in float16 and in float32 without TF32, against PyTorch's compiled float16 block where torch sees the GPU, and against
the roofline (docs/gpu-roofline.md). Inputs stay on the device; runs follow each other without waiting, as a model's
blocks do. The encoder is `encoder.py`'s, each engine in a process of its own; its times include the copies to the
device and back. Whether a run of these is worth anything is checked first, by the short self-check.

Without a GPU it says "no GPU here" and why, and ends with status 0. All of it takes about 8 minutes; what does not fit
into `--minutes` is left out, and said.

    make bench-gpu          # or: python benchmarks/gpu/run.py [--minutes 8] [--output FILE]
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # harness.py and encoder.py, which are scripts

import blocks
import limits

from lazyneuron.engine.devices.choice import Device
from lazyneuron.engine.devices.found import lacking
from lazyneuron.engine.documents import write_text
from lazyneuron.engine.gpu.data_sheets import Gpu, gpu_reported
from lazyneuron.engine.gpu.places import described
from lazyneuron.engine.gpu.selfcheck import short

Stage = Callable[[], dict[str, Any]]
LAST_START = 0.6
"""The share of the time after which no stage begins: the last, the encoder, takes some 3 minutes."""


def stages(place: Device, gpu: Gpu | None, layers: int, seconds: float) -> dict[str, Stage]:
    """Return what is measured, in order, by name: each prints its tables and returns its figures."""

    def whole_encoder() -> dict[str, Any]:
        import whole_encoder as encoder

        with tempfile.TemporaryDirectory() as scratch:
            return encoder.measure(Path(scratch), layers, seconds)

    return {
        "limits": lambda: limits.show(limits.measure(place), gpu),
        **{
            f"block {setting.d_model} / {setting.d_ff}": lambda setting=setting: blocks.measure(place, setting, gpu)
            for setting in blocks.SETTINGS
        },
        "encoder": whole_encoder,
    }


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--minutes", default=8.0, show_default=True, help="What does not begin early enough is left out.")
@click.option("--layers", default=12, show_default=True, type=click.IntRange(1, 12), help="Of the encoder.")
@click.option("--seconds", default=8.0, show_default=True, help="For each shape of the encoder.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for all figures, in JSON.")
def main(device: str, minutes: float, layers: int, seconds: float, output: Path | None) -> None:
    start = time.monotonic()
    place = Device.of(device)
    if why := lacking(place):
        click.echo(f"no GPU here: {why}")
        return
    name = described(place)
    gpu = gpu_reported(name)
    click.echo(name if gpu else f"{name}, whose data sheet is not known: no roofline")
    if wrong := short(place):
        raise SystemExit("\n".join(["nothing was timed: the self-check disagrees", *map(str, wrong)]))
    document: dict[str, Any] = {"device": name, "left_out": []}
    for stage, work in stages(place, gpu, layers, seconds).items():
        if time.monotonic() - start > LAST_START * 60 * minutes:
            document["left_out"].append(stage)
            click.echo(f"\nleft out: {stage}; {(time.monotonic() - start) / 60:.1f} minutes were used")
            continue
        click.echo(f"\n{stage}")
        document[stage] = work()
        if output is not None:  # after each stage: what is measured is kept, whatever follows
            output.parent.mkdir(parents=True, exist_ok=True)
            write_text(output, json.dumps(document, indent=1, default=dataclasses.asdict))
    click.echo(f"\n{(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
