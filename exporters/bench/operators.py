"""Measuring what an MLP block costs in each mode: over rows, density, sizes and types of weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.cost import CostModel, Curve, Mode, Weights
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import this_machine
from lazyneuron.engine.planted import PREDICTED_FALL, SCREENED_FALL, PlantedBlock, plant
from lazyneuron.engine.session import open_session, usable_cores
from lazyneuron.engine.timing import Timing, clock_for, time_in_turns
from lazyneuron.exporters.bench import graphs
from lazyneuron.exporters.progress import Progress, Silent

__all__ = ["GRIDS", "Grid", "bench_operators"]


@dataclass(frozen=True, slots=True)
class Grid:
    """What is measured.

    Attributes
    ----------
    shapes
        (d_model, d_ff) of each block.
    rows, densities
        Each with each.
    weights
        Types of the operators' weights.
    seconds
        How long each is timed, at least.
    least
        The fewest runs of each.
    """

    shapes: tuple[tuple[int, int], ...] = ((256, 1024), (768, 3072))
    rows: tuple[int, ...] = (1, 8, 64, 512)
    densities: tuple[float, ...] = (0.01, 0.03, 0.063, 0.1, 0.3, 0.5, 1.0)
    weights: tuple[Weights, ...] = ("float32", "float16", "int8")
    rank: int = 64
    seconds: float = 0.05
    least: int = 5


_DEFAULT = Grid()
GRIDS = {
    "quick": replace(_DEFAULT, rows=(1, 64, 512), densities=(0.01, 0.03, 0.1, 0.3, 1.0), weights=("float32",)),
    "default": _DEFAULT,
    "full": replace(_DEFAULT, shapes=((128, 512), (256, 1024), (768, 3072), (1024, 4096)), seconds=0.2, least=9),
}


_Feed = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Key:
    mode: Mode
    weights: Weights = "float32"
    gated: bool = False


@dataclass(frozen=True, slots=True)
class _Case:
    """A session and its input."""

    session: ort.InferenceSession
    feed: _Feed
    d_ff: int

    def cut(self, rows: int) -> _Feed:
        return {name: array[:rows] for name, array in self.feed.items()}

    def runner(self, rows: int) -> Callable[[], object]:
        return partial(self.session.run, ["y"], self.cut(rows))

    def candidates(self) -> float:
        """Return the share of neurons whose up projection is computed."""
        if "candidates" not in [output.name for output in self.session.get_outputs()]:
            return 1.0
        return float(self.session.run(["candidates"], self.feed)[0].mean()) / self.d_ff


@dataclass(frozen=True, slots=True)
class _Point:
    density: float
    candidates: float
    spread: float
    dense: float  # seconds, in the same turns
    seconds: float


def bench_operators(
    grid: Grid | str = "default", *, threads: int | None = None, progress: Progress | None = None, seed: int = 0
) -> CostModel:
    """Time ONNX Runtime's dense blocks and the operators on this machine.

    All that has the same shape, rows and density is timed in turns, on planted blocks whose candidates are what
    trained weights give. On one thread that thread's own time counts, so that other processes do not. A time is that of
    the fastest run, since what interrupts a run only adds to it; it is scaled by what the machine's clock did to the
    dense block in those turns.

    Parameters
    ----------
    grid
        What is measured; a name stands for one of `GRIDS`.
    threads
        Of ONNX Runtime; None: one a usable core, as in serving.

    Raises
    ------
    ConfigurationError
        If an operator's answer is wrong, so that nothing was to be timed.
    """
    grid = GRIDS[grid] if isinstance(grid, str) else grid
    threads = threads if threads is not None else usable_cores()
    progress = progress or Silent()
    rng = np.random.default_rng(seed)
    curves: list[Curve] = []
    for d_model, d_ff in grid.shapes:
        progress.step(f"timing blocks of {d_model}/{d_ff}", len(grid.densities) * len(grid.rows))
        curves += _shape(grid, d_model, d_ff, threads, rng, progress)
    return CostModel(machine=this_machine(), threads=threads, rank=grid.rank, curves=tuple(curves))


def _shape(
    grid: Grid, d_model: int, d_ff: int, threads: int, rng: np.random.Generator, progress: Progress
) -> list[Curve]:
    """Measure one shape of block."""
    falls = (SCREENED_FALL, PREDICTED_FALL)
    rows = max(grid.rows)
    planted, predicted = (
        [block.typical_first() for block in plant(rng, d_model, d_ff, grid.densities, rows=rows, fall=f)] for f in falls
    )
    baselines = dict(_baselines(planted[0], threads))
    dense_times: dict[tuple[_Key, int], list[float]] = {}
    points: dict[tuple[_Key, int], list[_Point]] = {}
    for density, block, predicted_block in zip(grid.densities, planted, predicted, strict=True):
        cases = dict(_sparse_cases(grid, block, predicted_block, threads))
        candidates = {key: case.candidates() for key, case in cases.items()}
        for count in grid.rows:
            work = {k: case.runner(count) for k, case in (baselines | cases).items()}
            times = time_in_turns(work, seconds=grid.seconds, least=grid.least, clock=clock_for(threads))
            for key in baselines:
                dense_times.setdefault((key, count), []).extend(times[key])
            for key in cases:
                dense = min(times[_Key("dense", gated=key.gated)])
                point = _Point(density, candidates[key], Timing.of(times[key]).spread, dense, min(times[key]))
                points.setdefault((key, count), []).append(point)
            progress.advance()
    return [_dense_curve(key, d_model, d_ff, count, t) for (key, count), t in dense_times.items()] + [
        _curve(key, d_model, d_ff, count, p, min(dense_times[_Key("dense", gated=key.gated), count]))
        for (key, count), p in points.items()
    ]


def _baselines(block: PlantedBlock, threads: int) -> Iterator[tuple[_Key, _Case]]:
    for gated in (False, True):
        model = graphs.dense(block, gated=gated)
        yield _Key("dense", gated=gated), _case(model, block, threads)
        yield _Key("int8", gated=gated), _case(graphs.to_int8(model), block, threads)


def _sparse_cases(
    grid: Grid, block: PlantedBlock, predicted: PlantedBlock, threads: int
) -> Iterator[tuple[_Key, _Case]]:
    for weights in grid.weights:
        yield _Key("down", weights), _case(graphs.down(block, weights), block, threads)
        builders: dict[Mode, Callable[[PlantedBlock, str], onnx.ModelProto]]
        builders = {"exact": graphs.exact, "certified": graphs.certified}
        for mode, build in builders.items():
            case = _case(build(block, weights), block, threads)
            if weights == "float32":
                _check(mode, case, block)
            yield _Key(mode, weights), case
        model = graphs.predictor(predicted, weights, rank=grid.rank)
        yield _Key("predictor", weights), _case(model, predicted, threads)
        yield _Key("gate", weights, gated=True), _case(graphs.gate(block, weights), block, threads)


def _case(model: onnx.ModelProto, block: PlantedBlock, threads: int) -> _Case:
    session = open_session(model.SerializeToString(), threads=threads)
    (name,) = (value.name for value in session.get_inputs())
    return _Case(session, {name: block.rows if name == "x" else block.pre}, block.d_ff)


def _check(mode: str, case: _Case, block: PlantedBlock) -> None:
    """Compare a few rows with float64: what computes something else is not worth timing."""
    few = min(8, len(block.rows))
    expected = block.hidden()[:few] @ block.down
    (y,) = case.session.run(["y"], case.cut(few))
    error = float(np.abs(y - expected).max() / np.abs(expected).max())
    if not error < 1e-4:
        raise ConfigurationError(
            f"mode {mode}: the operator's answer is off by {error:.1e} of the largest entry; nothing was timed"
        )


def _curve(key: _Key, d_model: int, d_ff: int, rows: int, points: list[_Point], dense: float) -> Curve:
    return Curve(
        mode=key.mode,
        weights=key.weights,
        gated=key.gated,
        d_model=d_model,
        d_ff=d_ff,
        rows=rows,
        density=tuple(p.density for p in points),
        candidates=tuple(round(p.candidates, 5) for p in points),
        seconds=tuple(_digits(p.seconds * dense / p.dense) for p in points),
        spread=tuple(round(p.spread, 3) for p in points),
    )


def _dense_curve(key: _Key, d_model: int, d_ff: int, rows: int, times: list[float]) -> Curve:
    return Curve(
        mode=key.mode,
        gated=key.gated,
        d_model=d_model,
        d_ff=d_ff,
        rows=rows,
        density=(1.0,),
        candidates=(1.0,),
        seconds=(_digits(min(times)),),
        spread=(round(Timing.of(times).spread, 3),),
    )


def _digits(seconds: float) -> float:
    """Keep what a measurement is good for, so that the file stays small."""
    return float(f"{seconds:.4g}")
