"""One MLP block in every mode, over rows and density, against the dense block and the roofline."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lazyneuron.engine.devices.choice import Device
from lazyneuron.engine.gpu import speed
from lazyneuron.engine.gpu.data_sheets import Gpu
from lazyneuron.engine.gpu.roofline import Shape, Work, kernels, seconds
from lazyneuron.engine.gpu.speed import Setting, Speed

_SMALL = Setting(
    rows=(1, 8, 64, 512, 4096),
    densities=(0.01, 0.03, 0.1),
    weights=("float16", "float32"),
    dense=("float16", "float32"),
)
SETTINGS = (
    _SMALL,
    dataclasses.replace(
        _SMALL, d_model=4096, d_ff=16384, rows=(1, 8, 32, 128, 512), densities=(0.03, 0.1), weights=("float16",)
    ),
)
_WARM, _RUNS, _ROUNDS = 10, 50, 7


def measure(place: Device, setting: Setting, gpu: Gpu | None) -> dict[str, Any]:
    """Time the block, print a table for each density, and return the figures."""
    compiled = {} if place.kind == "cpu" else _compiled(setting)
    found = list(speed.measure(place, setting))
    for density in setting.densities:
        here = [one for one in found if one.density == density]
        Console(width=120).print(_table(setting, here, gpu, compiled))
    told = [dataclasses.asdict(one) | {"roofline": None if gpu is None else _least(setting, one, gpu)} for one in found]
    return {"setting": dataclasses.asdict(setting), "compiled_float16": compiled, "speeds": told}


def _table(setting: Setting, speeds: list[Speed], gpu: Gpu | None, compiled: dict[int, float]) -> Table:
    title = f"{setting.d_model} / {setting.d_ff}, {100 * speeds[0].density:g} % active: µs a call, and times as fast"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    names = [f"dense {kind}" for kind in setting.dense]
    for header in ("mode", "weights", "rows", "candidates", "µs", "least", *names, "torch.compile"):
        table.add_column(header, justify="left" if header in {"mode", "weights"} else "right", no_wrap=True)
    for one in speeds:
        least = "–" if gpu is None else f"{1e6 * _least(setting, one, gpu):.1f}"
        rivals = [f"{1e6 * one.dense[kind]:.1f}: {one.times_as_fast(kind):.2f} ×" for kind in setting.dense]
        torch = compiled.get(one.rows) if one.mode != "gate" else None
        beside = "–" if torch is None else f"{1e6 * torch:.1f}: {torch / one.seconds:.2f} ×"
        cells = (one.mode, one.weights, str(one.rows), f"{100 * one.candidates:.1f} %", f"{1e6 * one.seconds:.1f}")
        table.add_row(*cells, least, *rivals, beside)
    return table


def _least(setting: Setting, one: Speed, gpu: Gpu) -> float:
    """Return the roofline's seconds."""
    work = Work(Shape.square(setting.d_model, setting.d_ff), one.rows, one.density, one.candidates, one.weights)
    parts = kernels(gpu, one.mode, dataclasses.replace(work, gated=one.mode == "gate"))
    return seconds(gpu, parts)


def _compiled(setting: Setting) -> dict[int, float]:
    """Return the seconds of PyTorch's compiled dense float16 block, by rows; none where torch sees no GPU."""
    try:
        import torch
    except ImportError:
        click.echo("  torch.compile: torch is not installed")
        return {}
    if not torch.cuda.is_available():
        click.echo("  torch.compile: this torch sees no GPU")
        return {}
    generator = torch.Generator(device="cuda").manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.float16) / np.sqrt(shape[0])

    up, bias = drawn(setting.d_model, setting.d_ff), drawn(setting.d_ff)
    down = drawn(setting.d_ff, setting.d_model)

    @torch.compile(dynamic=False)
    def block(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ up + bias) @ down

    with torch.inference_mode():
        inputs = {rows: drawn(rows, setting.d_model) for rows in setting.rows}
        return {rows: _seconds(partial(block, x), torch.cuda.synchronize) for rows, x in inputs.items()}


def _seconds(run: Callable[[], object], wait: Callable[[], object]) -> float:
    for _ in range(_WARM):
        run()
    wait()
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(_RUNS):
            run()
        wait()
        times.append((time.perf_counter() - start) / _RUNS)
    return statistics.median(times)
