"""What a device reaches of its memory's bandwidth and its tensor cores' peak, through ONNX Runtime."""

import time
from typing import Any

import click
import numpy as np

from lazyneuron.engine.devices.choice import Device
from lazyneuron.engine.gpu.data_sheets import Gpu
from lazyneuron.engine.gpu.places import open_on
from lazyneuron.engine.onnx_writer import Node, write_model

SIDE = 8192
"""Of the square float16 product, and of the rows of the float32 array that is read and written: 1 GiB of it."""
ROWS = 32768
RUNS = 10


def measure(place: Device, side: int = SIDE, rows: int = ROWS) -> dict[str, float]:
    """Return bytes a second of an elementwise kernel and operations a second of a float16 product."""
    rng = np.random.default_rng(0)
    negated = write_model(
        [Node("Neg", ["x"], ["y"])], {"x": ("float32", ["rows", side])}, {"y": ("float32", ["rows", side])}, {}
    )
    weights = (rng.standard_normal((side, side), np.float32) / 64).astype(np.float16)
    product = write_model(
        [Node("MatMul", ["x", "w"], ["y"])],
        {"x": ("float16", ["rows", side])},
        {"y": ("float16", ["rows", side])},
        {"w": weights},
    )
    copied = _seconds(place, negated, np.zeros((rows, side), np.float32))
    multiplied = _seconds(place, product, weights)
    return {"memory": 2 * 4 * rows * side / copied, "fp16": 2 * side**3 / multiplied}


def show(found: dict[str, float], gpu: Gpu | None) -> dict[str, Any]:
    """Print what was reached beside the data sheet; return both."""
    sheet = {"memory": gpu.memory, "fp16": gpu.operations["fp16"]} if gpu else {}
    for name, unit in (("memory", "GB/s"), ("fp16", "TFLOPS")):
        scale = 1e9 if name == "memory" else 1e12
        beside = f" of {sheet[name] / scale:.0f} by the data sheet" if sheet else ""
        click.echo(f"  {name}: {found[name] / scale:.0f} {unit}{beside}")
    return {"measured": found, "data_sheet": sheet}


def _seconds(place: Device, model: bytes, x: np.ndarray) -> float:
    bound = open_on(place, model).bound({"x": x})
    bound.run(3)
    start = time.perf_counter()
    bound.run(RUNS)
    return (time.perf_counter() - start) / RUNS
