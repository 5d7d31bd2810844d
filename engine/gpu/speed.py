"""How fast the operators are on a device beside the dense block, on a planted block of T5-Base's size."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine import block_graphs
from lazyneuron.engine.gpu.places import CPU, Bound, Place, open_on
from lazyneuron.engine.planted import PREDICTED_FALL, PlantedBlock, plant
from lazyneuron.engine.session import usable_cores
from lazyneuron.engine.timing import time_in_turns

__all__ = ["DENSITY", "Setting", "Speed", "measure", "setting_for", "time_bound"]

DENSITY = 0.03
_LONG_ENOUGH = 2e-3
"""Seconds of one turn, in which a run is repeated: the clock and the wait for the device are then small."""
_MODES: dict[str, Callable[[PlantedBlock, str], bytes]] = {
    "exact": block_graphs.exact,
    "certified": block_graphs.certified,
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
    density: float = DENSITY
    rows: tuple[int, ...] = (1, 64)
    weights: tuple[str, ...] = ("float32",)
    dense: tuple[str, ...] = ("float32",)
    seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class Speed:
    """One mode at one number of rows.

    Attributes
    ----------
    seconds
        The median of a call.
    dense
        That of the dense block, by the type of its weights.
    """

    mode: str
    weights: str
    rows: int
    seconds: float
    dense: Mapping[str, float]

    def times_as_fast(self, dense: str) -> float:
        """Return how many times as fast as a dense block it is."""
        return self.dense[dense] / self.seconds


def setting_for(place: Place) -> Setting:
    """Return what the self-check times on a device."""
    if place == CPU:
        return Setting()
    return Setting(rows=(1, 16, 64, 512), weights=("float32", "float16"), dense=("float32", "float16"))


def measure(place: Place, setting: Setting | None = None) -> Iterator[Speed]:
    """Time every mode, at each number of rows in turns with the dense blocks; inputs stay on the device.

    Raises
    ------
    ArtifactError
        If a graph is refused.
    """
    setting = setting or setting_for(place)
    rng = np.random.default_rng(0)
    sizes = (setting.d_model, setting.d_ff, [setting.density])
    (block,) = plant(rng, *sizes, rows=max(setting.rows))
    (predicted,) = plant(rng, *sizes, rows=max(setting.rows), fall=PREDICTED_FALL)
    blocks = {mode: predicted if mode == "predictor" else block for mode in _MODES}
    threads = usable_cores() if place == CPU else 1
    models: dict[tuple[str, str], tuple[bytes, NDArray[np.generic]]] = {}
    for kind in setting.dense:
        for name, gated in (("dense", False), ("dense, gated", True)):
            models[name, kind] = block_graphs.dense(block, kind, gated=gated), block.rows.astype(kind)
    for mode, make in _MODES.items():
        for kind in setting.weights:
            models[mode, kind] = make(blocks[mode], kind), blocks[mode].rows
    opened = {key: (open_on(place, model, threads=threads), rows) for key, (model, rows) in models.items()}
    for count in setting.rows:
        work = {key: session.bound({"x": rows[:count]}) for key, (session, rows) in opened.items()}
        times = time_bound(work, setting.seconds)
        for mode in _MODES:
            rival = "dense, gated" if mode == "gate" else "dense"
            dense = {kind: times[rival, kind] for kind in setting.dense}
            for kind in setting.weights:
                yield Speed(mode, kind, count, times[mode, kind], dense)


def time_bound(work: Mapping[tuple[str, str], Bound], seconds: float) -> dict[tuple[str, str], float]:
    """Return the median seconds of a run of each, timed in turns that are long enough for the clock."""
    repeats = {key: _repeats(bound) for key, bound in work.items()}
    turns = {key: partial(bound.run, repeats[key]) for key, bound in work.items()}
    times: Mapping[tuple[str, str], Sequence[float]] = time_in_turns(turns, seconds=seconds)
    return {key: statistics.median(times[key]) / repeats[key] for key in work}


def _repeats(bound: Bound) -> int:
    bound.run(2)  # what a first run allocates
    start = time.perf_counter()
    bound.run(2)
    return max(1, math.ceil(_LONG_ENOUGH / max((time.perf_counter() - start) / 2, 1e-9)))
