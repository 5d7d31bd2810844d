"""One block's predictor: its rank, its weights, its threshold, and what it does on rows that were held out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.reference.gating import activate
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.predictors.closed_form import Moments, ReducedRank
from lazyneuron.exporters.predictors.predictor import Measures, Predictor, Spread
from lazyneuron.exporters.predictors.rows import BlockRows
from lazyneuron.exporters.predictors.thresholds import Scored, choose_threshold
from lazyneuron.exporters.predictors.tuning import TuningSettings, tune
from lazyneuron.exporters.progress import Progress

__all__ = ["MOST_RATIO", "BlockSettings", "least_rank", "train_block"]

MOST_RATIO = 1.5
"""The most candidates for each active neuron that a rank is content with, where it is chosen."""
_UNTUNED_RATIO = 1.1 * MOST_RATIO
"""What tuning has been seen to bring down to that."""
_GATHERED = 2.0
"""A candidate's operations, in those of a dense product: its rows are read one at a time."""
_STEP = 16
"""Between the ranks that are tried: a vector register of floats."""
_CHUNK = 2048
_SCANNED = 4096
"""Rows that ranks are compared on."""
_MORE_RANKS = 2
"""How often a rank that tuning leaves above `MOST_RATIO` is raised."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSettings:
    """What is asked of a block's predictor.

    Attributes
    ----------
    recall
        The promised share of active neurons that are candidates.
    rank
        None: chosen by cost.
    tuning
        How it is tuned.
    """

    recall: float = 0.99
    rank: int | None = None
    tuning: TuningSettings = field(default_factory=TuningSettings)


def least_rank(d_model: int) -> int:
    """Return the least rank that is tried."""
    return max(1, min(_STEP, d_model // 8))


def train_block(
    block: Block, rows: BlockRows, spread: Spread, settings: BlockSettings, *, progress: Progress, what: str
) -> Predictor | None:
    """Fit, tune, choose the threshold and measure.

    Memory: the fitted rows in float32, rows · d_model · 4 bytes, and some products of 2,048 rows.

    Parameters
    ----------
    spread
        By which the rows were standardised.
    progress
        Told of each rank and epoch.
    what
        What is trained, in the progress' words.

    Returns
    -------
    The predictor of the block's own input; None where no rank would cost less than the dense up projection, where no
    neuron fires, or where the input is not finite.
    """
    progress.step(f"{what}: choosing its rank")
    if not np.isfinite(spread.deviation).all():
        return None
    training = _Training(block, rows, spread, settings)
    rank = training.choose_rank()
    if rank is None:
        return None

    def tuned(rank: int) -> tuple[Predictor, Measures]:
        progress.step(f"{what}: tuning rank {rank}", settings.tuning.epochs)
        return training.tuned(rank, progress.advance)

    tried = [tuned(rank)]
    while settings.rank is None and len(tried) <= _MORE_RANKS and tried[-1][1].ratio > MOST_RATIO:
        more = [r for r in training.ranks() if r > tried[-1][0].rank]
        if not more:
            break
        tried.append(tuned(more[0]))
    kept = [found for found in tried if found[1].ratio <= MOST_RATIO] or tried
    best, _ = min(kept, key=lambda found: training.cost(found[0], found[1]))
    return replace(best, held_out=training.measure(best, rows.test())).on_raw(spread)


class _Training:
    """What every step of a block's training needs."""

    def __init__(self, block: Block, rows: BlockRows, spread: Spread, settings: BlockSettings) -> None:
        self._block, self._rows, self._settings = block, rows, settings
        up = block.up.weight.read().astype(np.float32)
        bias = np.zeros(block.d_ff, np.float32) if block.up.bias is None else block.up.bias
        self._up = spread.deviation[:, None] * up
        self._bias = (spread.mean @ up + bias).astype(np.float32)
        self._down = np.linalg.norm(block.down.weight.read().astype(np.float32), axis=1)
        self._fit = rows.fit()
        parts = (rows.inputs(part) for part in _chunks(self._fit))
        self._closed = ReducedRank(Moments.of(parts, block.d_model), self._up, self._bias)

    def ranks(self) -> list[int]:
        """Return the ranks to choose from: those that cost less than the dense up projection."""
        d_model, d_ff = self._block.d_model, self._block.d_ff
        step = least_rank(d_model)
        return [r for r in range(step, d_model, step) if r * (d_model + d_ff) < d_model * d_ff]

    def choose_rank(self) -> int | None:
        """Return the cheapest rank whose closed form is content with few enough candidates; else the cheapest."""
        scanned = self._rows.threshold()
        scanned = scanned[:: max(1, len(scanned) // _SCANNED)]
        if not any(self._rows.active(part).any() for part in _chunks(scanned)):
            return None
        if self._settings.rank is not None:
            return self._settings.rank
        tried: list[tuple[int, Measures, float]] = []
        for rank in self.ranks():
            predictor = self._closed.predictor(rank)
            if tried and min(c for _, _, c in tried) <= predictor.operations and _content(tried):
                break  # its own operations alone cost more
            measured = self.measure(self._with_threshold(predictor, scanned), scanned, energy=False)
            tried.append((rank, measured, self.cost(predictor, measured)))
        return min(_content(tried) or tried, key=lambda found: found[2])[0] if tried else None

    def cost(self, predictor: Predictor, measured: Measures) -> float:
        """Return about how many dense operations a row's candidates cost, the predictor's own among them."""
        block = self._block
        return predictor.operations + _GATHERED * 2 * block.d_model * block.d_ff * measured.candidates

    def tuned(self, rank: int, advance: Callable[[], None]) -> tuple[Predictor, Measures]:
        """Return the tuned predictor of a rank with its threshold, and what it does on the threshold's rows."""
        predictor = self._closed.predictor(rank)
        chosen = self._rows.threshold()
        gated = self._block.top_k > 0
        fitted = tune(
            predictor,
            self._rows.inputs(self._fit),
            lambda rows: self._rows.active(self._fit[rows]),
            None if gated else (self._up, self._bias),
            self._settings.tuning,
            advance,
        )
        both = [self._with_threshold(p, chosen) for p in (predictor, fitted)]
        measured = [(p, self.measure(p, chosen, energy=False)) for p in both]
        # Where there is nothing left to gain, tuning may lose a little.
        return min(measured, key=lambda found: found[1].candidates)

    def measure(self, predictor: Predictor, chosen: Rows, *, energy: bool = True) -> Measures:
        """Measure a predictor on rows."""
        active = candidates = kept = 0
        all_energy = kept_energy = 0.0
        for part in _chunks(chosen):
            x, fired = self._rows.inputs(part), self._rows.active(part)
            candidate = predictor.scores(x) > predictor.threshold
            active += int(fired.sum())
            candidates += int(candidate.sum())
            kept += int((candidate & fired).sum())
            if energy:
                value = np.where(fired, activate(x @ self._up + self._bias, self._block.activation), np.float32(0))
                square = np.square(value * self._down, dtype=np.float64)
                all_energy += float(square.sum())
                kept_energy += float(square[candidate].sum())
        neurons = max(len(chosen) * self._block.d_ff, 1)
        return Measures(
            rows=len(chosen),
            recall=kept / active if active else 1.0,
            energy=min(kept_energy / all_energy, 1.0) if all_energy else 1.0,
            candidates=candidates / neurons,
            active=active / neurons,
        )

    def _with_threshold(self, predictor: Predictor, chosen: Rows) -> Predictor:
        scores, examples = [], []
        for part in _chunks(chosen):
            fired = self._rows.active(part)
            scores.append(predictor.scores(self._rows.inputs(part))[fired])
            examples.append(np.repeat(self._rows.example[part], fired.sum(axis=1)))
        scored = Scored(np.concatenate(scores), np.concatenate(examples))
        return replace(predictor, threshold=choose_threshold(scored, self._settings.recall))


def _content(tried: list[tuple[int, Measures, float]]) -> list[tuple[int, Measures, float]]:
    return [found for found in tried if found[1].ratio <= _UNTUNED_RATIO]


def _chunks(rows: Rows) -> Iterator[Rows]:
    for first in range(0, len(rows), _CHUNK):
        yield rows[first : first + _CHUNK]
