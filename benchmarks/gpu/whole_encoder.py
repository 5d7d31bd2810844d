"""The T5-base-shaped encoder of `encoder.py` on a GPU, with that benchmark's own engines, turns and tables."""

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import encoder
from encoder_models import make_for_gpu

SHAPES = ("1x16", "1x128", "8x128", "8x512")
VARIANTS = {
    "ORT float32": ("cuda-ort-float32",),
    "ORT TF32": ("cuda-ort-tf32",),
    "ORT float16": ("cuda-ort-float16",),
    "PyTorch float16": ("cuda-pytorch-float16", "cuda-pytorch-float16-compiled"),
    "exact": ("cuda-lazyneuron-exact",),
    "certified": ("cuda-lazyneuron-certified",),
    "certified, rest TF32": ("cuda-lazyneuron-certified-tf32",),
}


def measure(folder: Path, layers: int, seconds: float) -> dict[str, Any]:
    """Make the models, let the engines take turns at each shape, print the tables and return the figures."""
    manifest = make_for_gpu(folder, layers=layers, say=lambda text: click.echo(f"  {text}", err=True))
    density = statistics.mean(block.density.mean for block in manifest.blocks)
    click.echo(f"  {layers} layers, 768 / 3072; mean density {100 * density:.2f} %")
    chosen = encoder.choose(folder, 1, list(VARIANTS), 1.0, VARIANTS)
    if encoder.BASE not in chosen:
        raise SystemExit(f"{encoder.BASE} does not run on this GPU; the encoder was not timed")
    figures: dict[str, Any] = {"density": density, "engines": chosen}
    with ExitStack() as stack:
        engines = {row: stack.enter_context(encoder.engine(name, folder, 1)) for row, name in chosen.items()}
        for text in SHAPES:
            batch, length = map(int, text.split("x"))
            found = encoder.errors(engines, engines[encoder.BASE], (batch, length), folder)
            times = encoder.measure(engines, (batch, length), seconds)
            click.echo(f"\n{text}; median, times as fast (quartiles)")
            encoder.show(times, found, chosen)
            figures[text] = {
                row: {"seconds": statistics.median(values), "error": found[row]} for row, values in times.items()
            }
    return figures
