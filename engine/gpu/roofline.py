"""What an MLP block takes at least on a GPU, by the device's limits: bandwidths, peak operations, launches.

A kernel takes its launch and then the longest of three: its bytes over the memory's bandwidth, its bytes over the
level-2 cache's, its operations over the peak of what multiplies (Williams, Waterman and Patterson, "Roofline: an
insightful visual performance model for multicore architectures", CACM 52(4), 2009). A block's kernels wait for each
other, so their times add up. These are the least times that the hardware allows, for the dense block and for ours
alike: a measurement is always above them.

Weights come from memory, since those of a model's other layers have passed through the cache in the meantime, each
byte once; what a kernel reads of them again, it reads from the cache. Arrays between kernels stay in the cache, if they
fit. Which neurons are active is taken to be independent from row to row, so rows share as few as they can: that is the
worst case.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lazyneuron.engine.cost import Mode, Weights
from lazyneuron.engine.gpu.data_sheets import Gpu, Unit

__all__ = ["LAUNCH", "Kernel", "Shape", "Work", "kernels", "seconds"]

LAUNCH = 2.5e-6
"""Seconds from one kernel's end to the next one's work, on one stream: 2 to 3 microseconds are usual."""

_ROW_TILE = 16
"""Rows that tensor cores multiply at least, and rows of a tile that shares a list of neurons."""
_COLUMN_TILE = 128
_SPLITS, _PROGRAMS = 8, 512
"""Into how many parts the down projection of a row is split, where there are fewer programs than that without."""
_FLOAT, _INDEX = 4, 4
_BYTES: dict[Weights, int] = {"float32": 4, "float16": 2, "int8": 1}
_DENSE_UNIT: dict[Weights, Unit] = {"float32": "fp32", "float16": "fp16", "int8": "fp16"}
_EXACT_PRODUCTS = 3
"""TF32 products that make one of float32's accuracy on tensor cores."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A block's sizes."""

    d_model: int
    d_ff: int
    d_out: int

    @classmethod
    def square(cls, d_model: int, d_ff: int) -> "Shape":
        """Return the sizes of a block whose output is as wide as its input."""
        return cls(d_model, d_ff, d_model)


@dataclass(frozen=True, slots=True)
class Work:
    """What a block does in a call.

    Attributes
    ----------
    rows
        At least 1.
    density, candidates
        Shares of the neurons of a row: those that are active, and those whose up projection is computed.
    weights
        The type of the weights; of the products that stay dense, too, in float16 for int8. float32 is multiplied as
        such, by no tensor core, as `lazyneuron serve` does unless it is told otherwise.
    rank
        Of the predictor.
    gated
        Whether the dense block has a gate projection.
    """

    shape: Shape
    rows: int
    density: float = 1.0
    candidates: float = 1.0
    weights: Weights = "float16"
    rank: int = 64
    gated: bool = False

    def at(self, density: float, candidates: float) -> "Work":
        """Return the same with other shares."""
        return replace(self, density=density, candidates=candidates)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel's work.

    Attributes
    ----------
    memory
        Bytes from memory and to it.
    cache
        Bytes between the level-2 cache and the multiprocessors, those from memory included.
    operations, unit
        A multiply-add is two.
    programs
        How many run side by side at most; infinite where the grid fills the device.
    """

    name: str
    memory: float
    cache: float
    operations: float = 0.0
    unit: Unit = "fp32"
    programs: float = math.inf

    def limits(self, gpu: Gpu) -> dict[str, float]:
        """Return the least seconds by each limit: `memory`, `cache`, `operations`."""
        busy = min(self.programs, gpu.processors)
        within = min(gpu.cache_bandwidth, busy * gpu.processor_bandwidth)
        peak = gpu.operations[self.unit] * busy / gpu.processors
        return {
            "memory": self.memory / min(gpu.memory, within),
            "cache": self.cache / within,
            "operations": self.operations / peak,
        }

    def seconds(self, gpu: Gpu) -> float:
        """Return the least seconds without the launch."""
        return max(self.limits(gpu).values())


def seconds(gpu: Gpu, parts: Sequence[Kernel], launch: float = LAUNCH) -> float:
    """Return the least seconds of kernels one after the other."""
    return sum(launch + kernel.seconds(gpu) for kernel in parts)


def kernels(gpu: Gpu, mode: Mode, work: Work, *, tiles: bool | None = None, launch: float = LAUNCH) -> list[Kernel]:
    """Return the kernels of a block in a mode.

    Parameters
    ----------
    mode
        `dense` is cuBLAS with bias and activation fused into its products, the best that it can be.
    tiles
        Whether the down projection goes by tiles of rows that share a list of neurons, or by the rows' own lists; None:
        what is faster.

    Raises
    ------
    ValueError
        If no kernels run that mode on a GPU.
    """
    if tiles is None:
        both = [kernels(gpu, mode, work, tiles=choice, launch=launch) for choice in (False, True)]
        return min(both, key=lambda parts: seconds(gpu, parts, launch))
    if mode not in _MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(_MODES)}")
    return [_spilt(gpu, kernel) for kernel in _MODES[mode](gpu, work, tiles)]


def _dense(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:  # noqa: ARG001 (one signature for all modes)
    s = work.shape
    width = 2 if work.gated else 1  # gate and up projection in one product
    yield _product(work, "up, gate" if work.gated else "up", s.d_model, width * s.d_ff, s.d_ff)
    yield _product(work, "down", s.d_ff, s.d_out)


def _down_alone(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    s, r = work.shape, work.rows
    kept = work.density * s.d_ff
    yield _by_row("select", work, _FLOAT * r * s.d_ff + (_FLOAT + _INDEX) * r * kept)
    yield from _down(gpu, work, tiles)


def _exact(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    s = work.shape
    yield from _product_in_float32(work, "up", s.d_model, s.d_ff)
    yield from _down_alone(gpu, work, tiles)


def _certified(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    s, r = work.shape, work.rows
    codes, terms = s.d_ff * s.d_model, 3 * _FLOAT * s.d_ff
    yield _by_row("quantize_rows", work, (_FLOAT + 1) * r * s.d_model)
    yield Kernel(
        "screen",
        memory=codes + terms,
        cache=codes + terms + r * s.d_model + r * s.d_ff,
        operations=2.0 * _padded(r) * s.d_model * s.d_ff,
        unit="int8",
    )
    yield _by_row("list_masked", work, r * s.d_ff + _INDEX * r * work.candidates * s.d_ff)
    yield from _candidates(gpu, work, tiles)


def _predictor(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    s = work.shape
    yield _product(work, "predictor, first", s.d_model, work.rank)
    yield from _product_in_float32(work, "predictor, second", work.rank, s.d_ff)
    yield from _scored(gpu, work, tiles)


def _gate(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    s = work.shape
    yield from _product_in_float32(work, "gate", s.d_model, s.d_ff)
    yield from _scored(gpu, work, tiles)


def _scored(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    """Give the bias of the scores, the list of those above the threshold, and what follows."""
    s, r = work.shape, work.rows
    listed = (_FLOAT + _INDEX) * r * work.candidates * s.d_ff
    yield Kernel("add bias", 0.0, 2 * _FLOAT * r * s.d_ff)
    yield _by_row("list_scored", work, _FLOAT * r * (s.d_ff + s.d_model) + listed)
    yield from _candidates(gpu, work, tiles)


def _candidates(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:
    """Give the candidates' up projections, their selection, and the down projection."""
    s, r = work.shape, work.rows
    found, kept = work.candidates * s.d_ff, work.density * s.d_ff
    lists = (_FLOAT + _INDEX) * r * found + _FLOAT * r * s.d_model
    yield _gathered("project", work, work.candidates, s.d_model, lists)
    yield _by_row("select", work, (_FLOAT + _INDEX) * r * (found + kept))
    yield from _down(gpu, work, tiles)


def _down(gpu: Gpu, work: Work, tiles: bool) -> Iterator[Kernel]:  # noqa: ARG001 (one signature)
    s, r = work.shape, work.rows
    lists, result = (_FLOAT + _INDEX) * r * work.density * s.d_ff, _FLOAT * r * s.d_out
    if tiles:
        yield from _down_by_tiles(work, lists, result)
        return
    splits = _SPLITS if r * math.ceil(s.d_out / _COLUMN_TILE) < _PROGRAMS else 1
    yield _gathered("down", work, work.density, s.d_out, lists + splits * result)
    if splits > 1:
        yield Kernel("reduce_down", 0.0, (splits + 1) * result)


def _gathered(name: str, work: Work, share: float, width: int, lists: float) -> Kernel:
    """Return a product of each row with its own neurons, of `width` weights each."""
    s, r = work.shape, work.rows
    neuron, listed = width * _BYTES[work.weights], r * share * s.d_ff
    return Kernel(name, _distinct(share, r) * s.d_ff * neuron, listed * neuron + lists, 2.0 * listed * width)


def _down_by_tiles(work: Work, lists: float, result: float) -> Iterator[Kernel]:
    """Give the down projection of tiles of rows, each with the neurons that any of its rows keeps."""
    s, r = work.shape, work.rows
    count = math.ceil(r / _ROW_TILE)
    union = count * _distinct(work.density, min(r, _ROW_TILE)) * s.d_ff
    spread = (_FLOAT * _ROW_TILE + _INDEX) * union
    yield Kernel("union_lists", 0.0, 2 * lists + spread, programs=count)
    neuron = s.d_out * _BYTES[work.weights]
    memory = _distinct(work.density, r) * s.d_ff * neuron
    operations = _EXACT_PRODUCTS * 2.0 * _ROW_TILE * union * s.d_out
    yield Kernel("down_tile", memory, union * neuron + spread + result, operations, "tf32")


def _product(work: Work, name: str, depth: int, width: int, written: int | None = None) -> Kernel:
    """Return a dense product with [depth, width] weights; `written` columns are left after an activation."""
    size = 4 if work.weights == "float32" else 2
    weights = depth * width * size
    between = work.rows * (depth + (width if written is None else written)) * size
    unit = _DENSE_UNIT[work.weights]
    return Kernel(f"{name} (cuBLAS)", weights, weights + between, 2.0 * _padded(work.rows) * depth * width, unit)


def _product_in_float32(work: Work, name: str, depth: int, width: int) -> Iterator[Kernel]:
    """Give a dense product whose result the operator takes in float32."""
    yield _product(work, name, depth, width)
    if work.weights != "float32":
        yield Kernel(f"cast ({name})", 0.0, (2 + _FLOAT) * work.rows * width)


def _by_row(name: str, work: Work, cache: float) -> Kernel:
    """Return a kernel with one program a row."""
    return Kernel(name, 0.0, cache, programs=work.rows)


def _spilt(gpu: Gpu, kernel: Kernel) -> Kernel:
    """Return the kernel with what does not fit into the cache going through memory.

    Not so a gather's, which reads again what neurons rows share.
    """
    between = kernel.cache - kernel.memory
    if kernel.name in _GATHERS:
        return kernel
    return replace(kernel, memory=kernel.memory + between) if between > gpu.cache else kernel


def _distinct(share: float, rows: int) -> float:
    """Return the share of neurons that any of the rows needs, where rows are independent."""
    return 1.0 - (1.0 - share) ** rows


def _padded(rows: int) -> int:
    """Return the rows that tensor cores multiply for so many."""
    return math.ceil(rows / _ROW_TILE) * _ROW_TILE


_GATHERS = ("project", "down", "down_tile")
_MODES = {
    "dense": _dense,
    "down": _down_alone,
    "exact": _exact,
    "certified": _certified,
    "predictor": _predictor,
    "gate": _gate,
}


def main(arguments: list[str] | None = None) -> None:
    """Write a GPU's roofline as a file of costs, or make a page's tables anew.

    python -m lazyneuron.engine.gpu.roofline --gpu a100 --output costs.json
    python -m lazyneuron.engine.gpu.roofline --page docs/gpu-roofline.md
    """
    import argparse
    from pathlib import Path

    from lazyneuron.engine.cost_files import write_costs
    from lazyneuron.engine.documents import write_text
    from lazyneuron.engine.gpu.data_sheets import GPUS
    from lazyneuron.engine.gpu.roofline_costs import PREFIX, roofline_costs
    from lazyneuron.engine.gpu.roofline_page import updated

    parser = argparse.ArgumentParser(prog="python -m lazyneuron.engine.gpu.roofline", description=__doc__)
    parser.add_argument("--gpu", choices=tuple(GPUS))
    parser.add_argument("--output", type=Path, help="with --gpu: the file of costs")
    parser.add_argument("--page", type=Path, help="a page of Markdown, whose tables are made anew")
    given = parser.parse_args(arguments)
    if (given.gpu is None) != (given.output is None) or (given.gpu is None and given.page is None):
        parser.error("give --gpu with --output, or --page")
    if given.gpu is not None:
        write_costs(roofline_costs(f"{PREFIX}{given.gpu}"), given.output)
    if given.page is not None:
        write_text(given.page, updated(given.page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
