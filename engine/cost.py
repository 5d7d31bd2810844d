"""What an MLP block costs on a machine, in each mode: interpolated between measurements.

`lazyneuron bench --operators` measures, or a GPU's roofline stands in; the exporter's planner reads. A time is divided
by the block's multiply-adds, and that quotient is interpolated: over rows and over the block's size in logarithms, over
density (and the share of candidates) linearly. Outside of what was measured the nearest quotient stands.

A mode's time is that of all before the down projection, which depends on the candidates, and that of the down
projection, which depends on the active neurons and is measured by itself. So a block whose candidates are another
multiple of its active neurons than in the measurement is priced, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import Machine

__all__ = ["COST_FORMAT", "CostModel", "Curve", "Mode", "Weights", "Work"]

COST_FORMAT = 1
Mode = Literal["dense", "int8", "down", "exact", "certified", "predictor", "gate"]
"""`dense` and `int8` are ONNX Runtime's block in float32 and in dynamic int8; `down` is SparseDown alone, `exact`
SparseDown behind ONNX Runtime's up projection; the others are SparseMLP's modes, a predictor with its two MatMuls, a
gate with its dense projection."""
Weights = Literal["float32", "float16", "int8"]
_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Size = Annotated[int, Field(ge=1)]


class Curve(BaseModel):
    """One kind of block at one shape and row count, over density."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode
    weights: Weights = "float32"
    """The operator's; those of a dense block are float32 always."""
    gated: bool = False
    """Whether the block has a gate projection, too."""
    d_model: _Size
    d_ff: _Size
    rows: _Size
    density: Annotated[tuple[_Share, ...], Field(min_length=1)]
    """Ascending; a single one where the time does not depend on it."""
    candidates: tuple[_Share, ...]
    """The share of neurons whose up projection was computed, at each density."""
    seconds: tuple[_Positive, ...]
    """The fastest run's time at each density: what interrupts a run only adds to it."""
    spread: tuple[Annotated[float, Field(ge=0.0)], ...]
    """The interquartile range, as a share of the median."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "Curve":
        lengths = {len(self.density), len(self.candidates), len(self.seconds), len(self.spread)}
        if len(lengths) != 1 or list(self.density) != sorted(set(self.density)):
            msg = "density must ascend, with one entry of candidates, seconds and spread each"
            raise ValueError(msg)
        return self

    @property
    def size(self) -> int:
        """Multiply-adds of one projection for one row."""
        return self.d_model * self.d_ff

    def at(self, density: float) -> float:
        """Return the seconds of a run at a density, with the candidates that it was measured with."""
        return float(np.interp(density, self.density, self.seconds))


@dataclass(frozen=True, slots=True)
class Work:
    """A block and what it does on average.

    Attributes
    ----------
    rows
        Rows in a call.
    density
        The share of neurons active in a row.
    candidates
        The share whose up projection is computed; None: what the measurement had at that density.
    """

    d_model: int
    d_ff: int
    d_out: int
    rows: float
    density: float
    candidates: float | None = None

    @property
    def size(self) -> float:
        """Multiply-adds of one projection for one row, the mean of both."""
        return self.d_ff * (self.d_model + self.d_out) / 2


class CostModel(BaseModel):
    """Costs of a machine, measured but for where `measured` says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    machine: Machine
    threads: _Size
    rank: _Size
    """The predictor's, in mode `predictor`."""
    curves: Annotated[tuple[Curve, ...], Field(min_length=1)]
    measured: bool = True
    """False: worked out from a device's data sheet (`lazyneuron.engine.gpu.roofline_costs`)."""

    def seconds_per_row(
        self, mode: Mode, work: Work, *, weights: Weights = "float32", gated: bool | None = None
    ) -> float:
        """Predict a block's time for one row of a call with `work.rows` rows.

        Parameters
        ----------
        gated
            Whether the block has a gate projection; None: in mode `gate` only.

        Raises
        ------
        ConfigurationError
            If that kind of block was not measured.
        """
        gated = mode == "gate" if gated is None else gated
        curves = self._by_kind.get((mode, weights, gated))
        if not curves:
            raise ConfigurationError(
                f"the costs hold no measurement of mode {mode} with {weights} weights; "
                "measure again with `lazyneuron bench --operators`"
                if self.measured
                else f"the roofline of {self.machine.cpu} has no mode {mode} with {weights} weights; "
                "export without it (such as without --quantize int8)"
            )
        sizes = sorted({curve.size for curve in curves})
        per_size = [self._over_rows([c for c in curves if c.size == size], work) for size in sizes]
        return work.size * _interpolate(math.log(work.size), [math.log(s) for s in sizes], per_size)

    def crossover(self, curve: Curve, against: Mode) -> float | None:
        """Return the density below which a curve is faster than ONNX Runtime's block of the same shape and rows.

        Returns
        -------
        1 where it always is, 0 where it never is at the measured densities, None where there is no such block.
        """
        rivals = self._by_kind.get((against, "float32", curve.gated), [])
        rival = next((r for r in rivals if (r.size, r.rows) == (curve.size, curve.rows)), None)
        if rival is None:
            return None
        slower = [ours - rival.at(density) for density, ours in zip(curve.density, curve.seconds, strict=True)]
        first = next((i for i, seconds in enumerate(slower) if seconds >= 0), None)
        if first is None:
            return 1.0
        if first == 0:
            return 0.0
        pair = slice(first - 1, first + 1)
        return float(np.interp(0.0, slower[pair], curve.density[pair]))

    @cached_property
    def _by_kind(self) -> dict[tuple[Mode, Weights, bool], list[Curve]]:
        kinds: dict[tuple[Mode, Weights, bool], list[Curve]] = {}
        for curve in self.curves:
            kinds.setdefault((curve.mode, curve.weights, curve.gated), []).append(curve)
        return kinds

    def _over_rows(self, curves: Sequence[Curve], work: Work) -> float:
        """Return seconds per multiply-add of a projection, at one measured size."""
        ordered = sorted(curves, key=lambda curve: curve.rows)
        units = [self._seconds(curve, work) / (curve.rows * curve.size) for curve in ordered]
        return _interpolate(math.log(work.rows), [math.log(curve.rows) for curve in ordered], units)

    def _seconds(self, curve: Curve, work: Work) -> float:
        """Return the seconds of a run as the curve's, at the work's density and candidates."""
        if work.candidates is None or curve.mode not in {"certified", "predictor", "gate"}:
            return curve.at(work.density)
        down = self._down(curve)
        before = _before_down(curve, down)
        return max(before(work.candidates) + down(work.density), min(curve.seconds) / 2)

    def _down(self, curve: Curve) -> Callable[[float], float]:
        """Return the down projection's time over density, at a curve's shape, rows and weights."""
        for other in self._by_kind.get(("down", curve.weights, False), []):
            if (other.size, other.rows) == (curve.size, curve.rows):
                return other.at
        return lambda density: 0.0 * density


def _before_down(curve: Curve, down: Callable[[float], float]) -> Callable[[float], float]:
    """Return the time of all before the down projection, over the share of candidates."""
    points: dict[float, list[float]] = {}
    for density, candidates, seconds in zip(curve.density, curve.candidates, curve.seconds, strict=True):
        points.setdefault(candidates, []).append(max(seconds - down(density), 0.0))
    shares = sorted(points)
    times = [float(np.mean(points[share])) for share in shares]
    return lambda candidates: float(np.interp(candidates, shares, times))


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Interpolate positive numbers in logarithms; outside, the nearest stands."""
    return math.exp(float(np.interp(x, xs, np.log(ys))))
