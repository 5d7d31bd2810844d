"""What a batch's MLP blocks should have taken, and dense ones in their place: measured costs, in tables.

A server estimates after every batch, so what the cost model says of a block is worked out once, over rows, density and
candidates, and read off for many batches at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import BlockPlan
from lazyneuron.engine.cost import CostModel, Mode, Work
from lazyneuron.engine.errors import ConfigurationError

__all__ = ["BlockEstimate", "BlockShape", "estimate_block", "seconds_per_row"]

_Floats = NDArray[np.float64]


def seconds_per_row(
    costs: CostModel, mode: Mode, work: Work, *, gated: bool, int8: bool = False, rank: int | None = None
) -> float:
    """Predict the seconds that a block takes for one row, as a part of an artifact.

    Parameters
    ----------
    mode
        `dense`, or that of the block's operator.
    gated
        Whether the block has a gate projection.
    int8
        Whether products outside the operators are quantised: dense blocks, and the up projections of exact ones.
    rank
        Of the predictor, in mode `predictor`; None: as it was measured.

    Raises
    ------
    ConfigurationError
        If that kind of block was not measured.
    """
    dense: Mode = "int8" if int8 else "dense"
    if mode == "dense":
        return costs.seconds_per_row(dense, work, gated=gated)
    seconds = costs.seconds_per_row(mode, work)
    if mode == "exact" and int8:  # half of the block is the up projection
        saved = costs.seconds_per_row("dense", work) - costs.seconds_per_row("int8", work)
        seconds = max(seconds - saved / 2, seconds / 4)
    if mode == "predictor" and rank is not None:
        # Its two products are dense ones, as two halves of the block are.
        more = (rank - costs.rank) * (work.d_model + work.d_ff) / (2 * work.size)
        seconds = max(seconds + more * costs.seconds_per_row("dense", work), seconds / 4)
    if gated and mode != "gate":  # measured without a gate: its projection comes on top, as the up projection's does
        projection = costs.seconds_per_row(dense, work, gated=True) - costs.seconds_per_row(dense, work)
        seconds += projection * (1.0 if mode == "exact" or work.candidates is None else work.candidates)
    return seconds


@dataclass(frozen=True, slots=True)
class BlockShape:
    """What a block's cost depends on besides its input: blocks of one shape share a table."""

    mode: Mode
    gated: bool
    d_model: int
    d_ff: int
    d_out: int
    rank: int | None
    int8: bool

    @classmethod
    def of(cls, plan: BlockPlan, *, int8: bool) -> "BlockShape":
        """Return a block's; `int8`: whether the artifact's products outside the operators are quantised."""
        return cls(plan.mode, plan.gated, plan.d_model, plan.d_ff, plan.d_out, plan.predictor_rank, int8)


@dataclass(frozen=True, slots=True)
class BlockEstimate:
    """The cost model's seconds for one block, in tables.

    What it takes to subtract a centred block's centre is not in them: nothing measures that where it is served.

    Attributes
    ----------
    rows, density, candidates
        The tables' axes, ascending: the logarithm of the rows in a call, and shares of the block's neurons.
    dense
        The logarithm of the dense block's seconds for a row, [rows].
    executed
        The operator's seconds for a row, with the up projection, [rows, density, candidates].
    """

    rows: _Floats
    density: _Floats
    candidates: _Floats
    dense: _Floats
    executed: _Floats

    def seconds(self, rows: _Floats, density: _Floats, candidates: _Floats) -> tuple[float, float]:
        """Return the dense block's seconds and the operator's, both over all of these calls.

        Parameters
        ----------
        rows
            [calls]: rows in a call, at least 1.
        density, candidates
            [calls]: the shares of neurons that were active, and whose up projection was computed.
        """
        x = np.log(rows)
        dense = np.exp(np.interp(x, self.rows, self.dense))
        (i, u), (j, v), (k, w) = (
            _place(self.rows, x),
            _place(self.density, density),
            _place(self.candidates, candidates),
        )
        low, high = (self._between(index, j, v, k, w) for index in (i, i + 1))
        executed = low ** (1 - u) * high**u  # as the cost model does: in logarithms over rows
        return float(rows @ dense), float(rows @ executed)

    def _between(
        self, i: NDArray[np.intp], j: NDArray[np.intp], v: _Floats, k: NDArray[np.intp], w: _Floats
    ) -> _Floats:
        table = self.executed
        first = table[i, j, k] * (1 - w) + table[i, j, k + 1] * w
        second = table[i, j + 1, k] * (1 - w) + table[i, j + 1, k + 1] * w
        interpolated: _Floats = first * (1 - v) + second * v
        return interpolated


def estimate_block(costs: CostModel, shape: BlockShape) -> BlockEstimate:
    """Work out a block's tables. Takes a tenth of a second or so.

    Raises
    ------
    ConfigurationError
        If that kind of block was not measured.
    """
    curves = [curve for curve in costs.curves if curve.mode == shape.mode]
    if not curves:
        raise ConfigurationError(f"the costs hold no measurement of mode {shape.mode}")
    rows = _axis(curve.rows for curve in costs.curves if curve.mode in {shape.mode, "dense", "int8"})
    density = _axis(d for curve in curves for d in curve.density)
    most = max(len(curve.candidates) for curve in curves)
    # Curves have nearly the same shares of candidates; where all neurons are, as in mode `exact`, it is no axis.
    candidates = _axis(np.mean([curve.candidates for curve in curves if len(curve.candidates) == most], axis=0))

    def price(mode: Mode, count: float, active: float, share: float) -> float:
        work = Work(shape.d_model, shape.d_ff, shape.d_out, count, active, share)
        return seconds_per_row(costs, mode, work, gated=shape.gated, int8=shape.int8, rank=shape.rank)

    dense = [price("dense", count, 1.0, 1.0) for count in rows]
    executed = [[[price(shape.mode, n, d, c) for c in candidates] for d in density] for n in rows]
    return BlockEstimate(
        _at_least_two(np.log(rows)),
        _at_least_two(density),
        _at_least_two(candidates),
        np.log(_repeated(np.array(dense), (0,))),
        _repeated(np.array(executed), (0, 1, 2)),
    )


def _axis(values: Iterable[float]) -> _Floats:
    return np.array(sorted(set(values)), np.float64)


def _at_least_two(axis: _Floats) -> _Floats:
    return axis if len(axis) > 1 else np.array([axis[0], axis[0] + 1.0])


def _repeated(table: _Floats, axes: Sequence[int]) -> _Floats:
    for axis in axes:
        if table.shape[axis] == 1:
            table = np.repeat(table, 2, axis=axis)
    return table


def _place(axis: _Floats, values: _Floats) -> tuple[NDArray[np.intp], _Floats]:
    """Return the entry of an axis before each value, and the share of the way to the next one; held at the ends."""
    before = np.clip(np.searchsorted(axis, values) - 1, 0, len(axis) - 2)
    return before, np.clip((values - axis[before]) / (axis[before + 1] - axis[before]), 0.0, 1.0)
