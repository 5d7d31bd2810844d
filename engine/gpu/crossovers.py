"""At which rows and density a mode can win over the dense block, by a device's roofline."""

from dataclasses import replace

from lazyneuron.engine.cost import Mode, Weights
from lazyneuron.engine.gpu.data_sheets import Gpu
from lazyneuron.engine.gpu.roofline import LAUNCH, Work, kernels, seconds
from lazyneuron.engine.gpu.roofline_costs import CANDIDATES

__all__ = ["MOST_ROWS", "density_limit", "row_limit", "times_as_fast"]

MOST_ROWS = 1 << 16
_STEPS = 40


def times_as_fast(
    gpu: Gpu,
    mode: Mode,
    work: Work,
    density: float,
    *,
    tiles: bool | None = None,
    launch: float = LAUNCH,
    against: Weights = "float16",
) -> float:
    """Return the least time of the dense block with weights `against` over a mode's at a density.

    Below 1 the dense block wins.
    """
    dense = replace(work, weights=against, gated=mode == "gate")
    ours = work.at(density, min(CANDIDATES.get(mode, 1.0) * density, 1.0) if mode in CANDIDATES else 1.0)
    base = seconds(gpu, kernels(gpu, "dense", dense), launch)
    return base / seconds(gpu, kernels(gpu, mode, ours, tiles=tiles, launch=launch), launch)


def density_limit(
    gpu: Gpu,
    mode: Mode,
    work: Work,
    *,
    tiles: bool | None = None,
    launch: float = LAUNCH,
    against: Weights = "float16",
) -> float | None:
    """Return the density below which a mode can win over the dense block; None where it never can."""

    def wins(density: float) -> bool:
        return times_as_fast(gpu, mode, work, density, tiles=tiles, launch=launch, against=against) > 1

    if not wins(0.0):
        return None
    low, high = 0.0, 1.0
    if wins(high):
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if wins(middle) else (low, middle)
    return low


def row_limit(
    gpu: Gpu, mode: Mode, work: Work, density: float, *, tiles: bool | None = None, launch: float = LAUNCH
) -> int:
    """Return up to how many rows, from one on, a mode can win over the dense float16 block at a density.

    0: not even with one; at most `MOST_ROWS`. `work.rows` is not read.
    """

    def wins(rows: int) -> bool:
        return times_as_fast(gpu, mode, replace(work, rows=rows), density, tiles=tiles, launch=launch) > 1

    low = 0
    high = 1
    while wins(high):
        if high >= MOST_ROWS:
            return MOST_ROWS
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wins(middle) else (low, middle)
    return low
