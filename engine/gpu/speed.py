"""How fast the operators are on a device beside the dense block, on a planted block of T5-Base's size."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine import block_graphs
from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.gpu.places import Bound, Opened, open_on
from lazyneuron.engine.planted import PREDICTED_FALL, PlantedBlock, plant
from lazyneuron.engine.timing import clock_for, time_in_turns

__all__ = ["Setting", "Speed", "measure", "setting_for", "time_bound"]

_Name = TypeVar("_Name", bound=Hashable)
_LEAST_ROWS = 128
"""Rows that a predictor's threshold is taken over at least."""
_LONG_ENOUGH = 2e-3
"""Seconds of one turn, in which a run is repeated: the clock and the wait for the device are then small."""


def _certified(block: PlantedBlock, weights: str, *, products: str) -> bytes:  # noqa: ARG001 (it has none)
    return block_graphs.certified(block, weights)


_MODES: dict[str, Callable[..., bytes]] = {
    "exact": block_graphs.exact,
    "certified": _certified,
    "predictor": block_graphs.predictor,
    "gate": block_graphs.gate,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is timed.

    Attributes
    ----------
    d_model, d_ff
        Of the block.
    densities
        Shares of the neurons that are active; in mode gate of the gate's.
    rows
        Of each call.
    weights
        Types of the operators' weights.
    dense
        Types of the dense blocks; float32 without TF32, as `lazyneuron serve` opens its sessions.
    seconds
        How long each is timed.
    """

    d_model: int = 768
    d_ff: int = 3072
    densities: tuple[float, ...] = (0.03,)
    rows: tuple[int, ...] = (1, 64)
    weights: tuple[str, ...] = ("float32",)
    dense: tuple[str, ...] = ("float32",)
    seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class Speed:
    """One mode at one density and number of rows.

    Attributes
    ----------
    candidates
        The share of the neurons whose up projection is computed.
    seconds
        The median of a call.
    dense
        That of the dense block, by the type of its weights.
    """

    mode: str
    weights: str
    density: float
    candidates: float
    rows: int
    seconds: float
    dense: Mapping[str, float]

    def times_as_fast(self, dense: str) -> float:
        """Return how many times as fast as a dense block it is."""
        return self.dense[dense] / self.seconds


def setting_for(place: Device) -> Setting:
    """Return what the self-check times on a device."""
    if place == CPU:
        return Setting()
    return Setting(rows=(1, 16, 64, 512), weights=("float32", "float16"), dense=("float32", "float16"))


def measure(place: Device, setting: Setting | None = None) -> Iterator[Speed]:
    """Time every mode, at each number of rows in turns with the dense blocks; inputs stay on the device.

    On the CPU sessions have one thread.

    Raises
    ------
    ArtifactError
        If a graph is refused.
    """
    setting = setting or setting_for(place)
    rng = np.random.default_rng(0)
    sizes = (setting.d_model, setting.d_ff, setting.densities)
    rows = max(_LEAST_ROWS, *setting.rows)
    planted = [block.typical_first() for block in plant(rng, *sizes, rows=rows)]
    predicted = [block.typical_first() for block in plant(rng, *sizes, rows=rows, fall=PREDICTED_FALL)]
    for density, block, other in zip(setting.densities, planted, predicted, strict=True):
        yield from _at_density(place, setting, density, {m: other if m == "predictor" else block for m in _MODES})


def _at_density(place: Device, setting: Setting, density: float, blocks: Mapping[str, PlantedBlock]) -> Iterator[Speed]:
    block = blocks["exact"]
    opened: dict[tuple[str, str], tuple[Opened, NDArray[np.generic]]] = {}
    for kind in setting.dense:
        for name, gated in (("dense", False), ("dense, gated", True)):
            opened[name, kind] = open_on(place, block_graphs.dense(block, kind, gated=gated)), block.rows.astype(kind)
    shares: dict[tuple[str, str], float] = {}
    for mode, make in _MODES.items():
        for kind in setting.weights:
            # ONNX Runtime's CPU multiplies float16 slowly: there the products before the operators are in float32.
            products = "float16" if kind == "float16" and place != CPU else "float32"
            opened[mode, kind] = open_on(place, make(blocks[mode], kind, products=products)), blocks[mode].rows
            shares[mode, kind] = _candidates(*opened[mode, kind], mode) / setting.d_ff
    for count in setting.rows:
        work = {key: session.bound({"x": rows[:count]}) for key, (session, rows) in opened.items()}
        times = time_bound(work, setting.seconds, place)
        for mode, kind in shares:
            rival = "dense, gated" if mode == "gate" else "dense"
            dense = {other: times[rival, other] for other in setting.dense}
            yield Speed(mode, kind, density, shares[mode, kind], count, times[mode, kind], dense)


def _candidates(opened: Opened, rows: NDArray[np.generic], mode: str) -> float:
    """Return how many neurons' up projections a row takes on average."""
    output = "active" if mode == "exact" else "candidates"
    counts = opened.run([output], {"x": rows})[output]
    return float(counts.mean())


def time_bound(work: Mapping[_Name, Bound], seconds: float, place: Device) -> dict[_Name, float]:
    """Return the median seconds of a run of each, timed in turns that are long enough for the clock.

    On the CPU the sessions are to have one thread, whose own time counts.
    """
    clock = clock_for(1) if place == CPU else time.perf_counter
    repeats = {key: _repeats(bound) for key, bound in work.items()}
    turns = {key: partial(bound.run, repeats[key]) for key, bound in work.items()}
    times = time_in_turns(turns, seconds=seconds, clock=clock)
    return {key: statistics.median(times[key]) / repeats[key] for key in work}


def _repeats(bound: Bound) -> int:
    bound.run(2)  # what a first run allocates
    start = time.perf_counter()
    bound.run(2)
    return max(1, math.ceil(_LONG_ENOUGH / max((time.perf_counter() - start) / 2, 1e-9)))
