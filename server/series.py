"""The numbers behind the metrics that every request or batch changes: plain ones, read when somebody asks.

`prometheus_client` takes a lock for each increment, some dozens a batch. Here whoever holds one lock changes them all;
and what needs NumPy is put off until many batches have gathered, since most are small.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from lazyneuron.engine.artifact import BlockPlan
from lazyneuron.engine.counting import RowCounts
from lazyneuron.engine.errors import REFUSALS
from lazyneuron.engine.estimates import BlockEstimate
from lazyneuron.engine.model import BatchResult

__all__ = ["BlockRecorder", "BlockSeries", "Distribution", "ModelSeries"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUESTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)
DENSITIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)

_MOST_COUNTS, _FEWEST_BATCHES, _MOST_BATCHES = 4096, 64, 1024
"""How many batches gather before they are worked off: so many over all blocks, within bounds. A millisecond or two."""
_MOST_ROWS = 1 << 16
"""And how many rows: some megabytes a dozen blocks."""


class Distribution:
    """A histogram's numbers.

    Attributes
    ----------
    bounds
        The buckets' upper bounds, ascending; one more takes what is above.
    counts
        What fell into each bucket and none below.
    sum
        Of all values.
    """

    __slots__ = ("_exemplars", "bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def example(self, value: float, labels: dict[str, str], when: float) -> None:
        """Keep a value, with what leads to more about it, as its bucket's exemplar; `when` in Unix seconds."""
        self._exemplars[bisect_left(self.bounds, value)] = Exemplar(labels, value, when)

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Return the buckets as Prometheus has them: each with all that is below."""
        total = 0
        found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for number, (bound, count) in enumerate(zip((*self.bounds, float("inf")), self.counts, strict=True)):
            total += count
            name: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
            example = self._exemplars.get(number)
            found.append((name, float(total)) if example is None else (name, float(total), example))
        return found


class BlockSeries:
    """One block's numbers.

    Attributes
    ----------
    neurons, active, candidates
        Over all real rows.
    dense_seconds, executed_seconds
        What the cost model says that a dense block and the operator took.
    estimated
        Whether it says anything.
    densities
        Of the rows.
    """

    __slots__ = ("active", "candidates", "dense_seconds", "densities", "estimated", "executed_seconds", "neurons")

    def __init__(self) -> None:
        self.neurons = self.active = self.candidates = 0
        self.dense_seconds = self.executed_seconds = 0.0
        self.estimated = False
        self.densities = Distribution(DENSITIES)


class BlockRecorder:
    """Adds to a block's numbers.

    Parameters
    ----------
    series
        The numbers.
    plan
        The block.
    estimate
        What its work costs; None: not known.

    Attributes
    ----------
    calls
        What has not been estimated yet: each call's rows, and the active and candidate neurons in it.
    """

    def __init__(self, series: BlockSeries, plan: BlockPlan, estimate: BlockEstimate | None) -> None:
        self.series = series
        self.calls: list[int] = []
        series.estimated = estimate is not None
        self._estimate = estimate
        self._d_ff = plan.d_ff
        # The most neurons of each bucket: whole numbers, so that no division decides where a row belongs.
        self._most = np.array([int(bound * plan.d_ff + 1e-9) for bound in DENSITIES])

    def add_rows(self, active: NDArray[np.integer]) -> None:
        """Count rows by their active neurons, [rows]."""
        densities = self.series.densities
        counts = np.bincount(np.searchsorted(self._most, active), minlength=len(densities.counts)).tolist()
        densities.counts = [old + new for old, new in zip(densities.counts, counts, strict=True)]
        densities.sum += int(active.sum(dtype=np.int64)) / self._d_ff

    def estimate(self) -> None:
        """Estimate what the calls took that were put down in `calls`."""
        table = np.array(self.calls, np.float64).reshape(-1, 3)
        self.calls.clear()
        rows = table[:, 0]
        if self._estimate is None or not len(rows):
            return
        if not rows.all():  # requests without a row
            table = table[rows > 0]
            rows = table[:, 0]
        density, candidates = table[:, 1:].T / (rows * self._d_ff)
        dense, executed = self._estimate.seconds(rows, density, candidates)
        self.series.dense_seconds += dense
        self.series.executed_seconds += executed


@dataclass(slots=True)
class ModelSeries:
    """One version's numbers. Whoever changes or reads them holds the lock of `Metrics`.

    Attributes
    ----------
    requests, refused
        Answered ones by gRPC status, refused ones by reason.
    lowered_requests, lowered_tokens
        Those that load gave a lower budget.
    out_of_memory
        Batches that a GPU had no memory for.
    others
        As the metrics of those names.
    """

    requests: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))
    request_seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    queue_seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    inference_seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    batch_requests: Distribution = field(default_factory=lambda: Distribution(REQUESTS))
    batch_tokens: Distribution = field(default_factory=lambda: Distribution(TOKENS))
    tokens_real: int = 0
    tokens_padding: int = 0
    flops_dense: int = 0
    flops_executed: int = 0
    lowered_requests: int = 0
    lowered_tokens: int = 0
    out_of_memory: int = 0
    blocks: dict[str, BlockSeries] = field(default_factory=dict)
    _recorders: Sequence[BlockRecorder] = ()
    _gathered: list[tuple[RowCounts, ...]] = field(default_factory=list)
    _rows: int = 0
    _most: int = _FEWEST_BATCHES

    def begin(self, plans: Sequence[BlockPlan], estimates: Sequence[BlockEstimate | None]) -> tuple[BlockRecorder, ...]:
        """Take up a version that was loaded, perhaps not for the first time: what was counted goes on."""
        self.requests.setdefault("OK", 0)
        return tuple(
            BlockRecorder(self.blocks.setdefault(plan.name, BlockSeries()), plan, estimate)
            for plan, estimate in zip(plans, estimates, strict=True)
        )

    def batch(self, recorders: Sequence[BlockRecorder], result: BatchResult, waits: Sequence[float]) -> None:
        """Count a batch that ran.

        Parameters
        ----------
        recorders
            What `begin` gave for the copy of the model that ran it.
        result
            What it gave and cost.
        waits
            What each of its requests waited, in seconds.
        """
        if recorders is not self._recorders:  # another copy of the version
            self.settle()
            self._recorders = recorders
            self._most = min(max(_MOST_COUNTS // len(recorders), _FEWEST_BATCHES), _MOST_BATCHES)
        for wait in waits:
            self.queue_seconds.observe(wait)
        self.inference_seconds.observe(result.seconds)
        self.batch_requests.observe(len(waits))
        self.batch_tokens.observe(result.tokens_real + result.tokens_padding)
        self.tokens_real += result.tokens_real
        self.tokens_padding += result.tokens_padding
        for recorder, counts in zip(recorders, result.sparsity.blocks, strict=True):
            series = recorder.series
            recorder.calls += (counts.rows, counts.active, counts.candidates)
            series.neurons += counts.neurons
            series.active += counts.active
            series.candidates += counts.candidates
            self.flops_dense += counts.flops_dense
            self.flops_executed += counts.flops_executed
        self._gathered.append(result.rows)
        self._rows += result.tokens_real + result.tokens_padding
        if len(self._gathered) >= self._most or self._rows >= _MOST_ROWS:
            self.settle()

    def settle(self) -> None:
        """Work off what has been put off."""
        gathered, self._gathered, self._rows = self._gathered, [], 0
        if not gathered:
            return
        marks: dict[tuple[int, ...], NDArray[np.bool_]] = {}  # blocks share their masks, as a rule
        for index, recorder in enumerate(self._recorders):
            recorder.estimate()
            recorder.add_rows(_joined([rows[index] for rows in gathered], marks))


def _joined(batches: Sequence[RowCounts], marks: dict[tuple[int, ...], NDArray[np.bool_]]) -> NDArray[np.integer]:
    """Return the active neurons of the real rows of many batches, [rows]."""
    active = np.concatenate([batch.active for batch in batches])
    if not any([batch.real is not None for batch in batches]):  # noqa: C419  a list is faster
        return active
    key = tuple(id(batch.real) for batch in batches)
    if key not in marks:
        marks[key] = np.concatenate(
            [np.ones(len(batch.active), bool) if batch.real is None else batch.real for batch in batches]
        )
    return active[marks[key]]
