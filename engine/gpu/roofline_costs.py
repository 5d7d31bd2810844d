"""Costs for the planner that a roofline gives, until a measurement takes their place.

They are priced as an export runs: blocks that stay dense, and the products before the operators, in float32.
"""

from collections.abc import Iterator
from functools import cache

from lazyneuron import __version__
from lazyneuron.engine.cost import CostModel, Curve, Mode, Weights
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.gpu.data_sheets import GPUS, Gpu
from lazyneuron.engine.gpu.roofline import LAUNCH, Shape, Work, kernels, seconds
from lazyneuron.engine.machine import Machine

__all__ = ["CANDIDATES", "PREFIX", "gpu_named", "roofline_costs"]

PREFIX = "cuda:"
"""Before a GPU's name, where otherwise a file of costs would stand."""

CANDIDATES: dict[Mode, float] = {"certified": 1.5, "predictor": 2.0, "gate": 1.0}
"""How many times the active neurons the candidates are, as trained weights give; in other modes all are."""

_SHAPES = ((256, 1024), (768, 3072), (1024, 4096), (2048, 8192), (4096, 16384))
_ROWS = (1, 4, 16, 64, 256, 1024, 4096)
_DENSITIES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
_RANK = 64
_WEIGHTS: tuple[Weights, ...] = ("float32", "float16", "int8")
_SPARSE: tuple[Mode, ...] = ("down", "exact", "certified", "predictor", "gate")


def gpu_named(text: str) -> Gpu:
    """Return the GPU that `cuda:NAME` stands for.

    Raises
    ------
    ConfigurationError
        If it is none whose data sheet is known.
    """
    gpu = GPUS.get(text.removeprefix(PREFIX).lower())
    if gpu is None:
        known = ", ".join(f"{PREFIX}{name}" for name in GPUS)
        raise ConfigurationError(f"{text}: no such GPU among those whose data sheet is known; expected one of {known}")
    return gpu


@cache
def roofline_costs(text: str) -> CostModel:
    """Return the least times of the GPU that `cuda:NAME` stands for, as costs that nobody measured.

    Raises
    ------
    ConfigurationError
        If it is none whose data sheet is known.
    """
    gpu = gpu_named(text)
    machine = Machine(cpu=gpu.name, instruction_set="cuda", onnxruntime="none", lazyneuron=__version__)
    return CostModel(machine=machine, threads=1, rank=_RANK, curves=tuple(_curves(gpu)), measured=False)


def _curves(gpu: Gpu) -> Iterator[Curve]:
    for d_model, d_ff in _SHAPES:
        shape = Shape.square(d_model, d_ff)
        for rows in _ROWS:
            for gated in (False, True):
                yield _curve(gpu, "dense", Work(shape, rows, weights="float32", gated=gated), (1.0,))
            for weights in _WEIGHTS:
                for mode in _SPARSE:
                    work = Work(shape, rows, weights=weights, rank=_RANK, gated=mode == "gate")
                    yield _curve(gpu, mode, work, _DENSITIES)


def _curve(gpu: Gpu, mode: Mode, work: Work, densities: tuple[float, ...]) -> Curve:
    candidates = [min(CANDIDATES[mode] * density, 1.0) if mode in CANDIDATES else 1.0 for density in densities]
    times = [
        seconds(gpu, kernels(gpu, mode, work.at(density, share)), LAUNCH)
        for density, share in zip(densities, candidates, strict=True)
    ]
    return Curve(
        mode=mode,
        weights="float32" if mode == "dense" else work.weights,
        gated=work.gated,
        d_model=work.shape.d_model,
        d_ff=work.shape.d_ff,
        rows=work.rows,
        density=densities,
        candidates=tuple(round(share, 5) for share in candidates),
        seconds=tuple(float(f"{value:.4g}") for value in times),
        spread=(0.0,) * len(densities),
    )
