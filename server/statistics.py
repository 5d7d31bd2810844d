"""Per-model statistics as Triton's `ModelStatistics` call gives them: running sums since the model was loaded.

Prometheus has its own counters in `metrics.py`; both are fed at the same two places, a batch that ran and a request
that was answered. Everything here runs on the event loop.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lazyneuron.engine.model import BatchResult

__all__ = ["BatchSums", "Duration", "ModelSums", "Statistics"]

_MOST_BATCH_SIZES = 1024  # clients choose the batch sizes, so what is kept of them is bounded


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in all (nanoseconds)."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count something that took `seconds` each time."""
        self.count += count
        self.ns += count * round(max(seconds, 0.0) * 1e9)


@dataclass(slots=True)
class BatchSums:
    """The executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def add(self, result: BatchResult, count: int = 1) -> None:
        """Count a batch, for each of `count` things that it was run for."""
        self.compute_input.add(result.input_seconds, count)
        self.compute_infer.add(result.seconds, count)
        self.compute_output.add(result.output_seconds, count)


@dataclass(slots=True)
class ModelSums:
    """One version of a model.

    Attributes
    ----------
    last_inference
        Milliseconds since 1970; 0: never.
    inference_count
        Examples that were computed.
    execution_count
        Batches that were.
    success, fail
        Requests by how they were answered, from arrival to answer.
    queue
        What each computed request waited.
    requests
        The batches' times, counted once for each request in them.
    batches
        The same, counted once for each execution, by the examples in the batch.
    """

    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    requests: BatchSums = field(default_factory=BatchSums)
    batches: dict[int, BatchSums] = field(default_factory=dict)

    def batch(self, result: BatchResult, waits: Sequence[float]) -> None:
        """Count a batch that ran, and what each of its requests waited (seconds)."""
        self.last_inference = time.time_ns() // 1_000_000
        self.inference_count += result.examples
        self.execution_count += 1
        for wait in waits:
            self.queue.add(wait)
        self.requests.add(result, len(waits))
        sums = self.batches.get(result.examples)
        if sums is None and len(self.batches) < _MOST_BATCH_SIZES:
            sums = self.batches[result.examples] = BatchSums()
        if sums is not None:
            sums.add(result)

    def answered(self, seconds: float, *, ok: bool) -> None:
        """Count a request that was answered."""
        (self.success if ok else self.fail).add(seconds)


class Statistics:
    """The statistics of every loaded model."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], ModelSums] = {}

    def begin(self, model: str, version: str) -> ModelSums:
        """Return a model's sums, at zero: it has just been loaded."""
        sums = self._models[model, version] = ModelSums()
        return sums

    def of(self, model: str, version: str) -> ModelSums:
        """Return a model's sums; all zero where it was never loaded."""
        return self._models.get((model, version)) or ModelSums()

    def forget(self, model: str, version: str) -> None:
        """Drop the sums of a model that was unloaded."""
        self._models.pop((model, version), None)
