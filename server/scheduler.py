"""One model's queue: requests wait here, run in batches in worker threads, and get their answers.

What runs together is decided by `engine.batching.plan`, a pure function; this is the part with a clock and threads.
Everything here runs on the event loop, except `Model.run`.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lazyneuron.engine.batching import Pending, plan
from lazyneuron.engine.errors import DeadlineExceededError
from lazyneuron.engine.model import BatchResult, Model, Prediction
from lazyneuron.engine.requests import Request
from lazyneuron.server.admission import Admission
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics

__all__ = ["Answer", "Scheduler"]

_log = logging.getLogger(__name__)

# The planner sees this many batches' worth of the oldest requests: it is run for each batch, and what comes after
# them cannot be due before them.
_HORIZON = 4
_DRAIN_LOOK = 0.01  # seconds between looks at a queue that waits for its window
_RATE_MEMORY = 0.2  # the weight of the latest batch in the moving average of the speed


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's result and how it came about.

    Attributes
    ----------
    prediction
        Outputs and counts.
    queue_seconds
        From its admission to the start of its batch.
    inference_seconds
        The batch's time in the engine.
    batch_requests, batch_size
        The requests and the examples in that batch.
    """

    prediction: Prediction
    queue_seconds: float
    inference_seconds: float
    batch_requests: int
    batch_size: int


@dataclass(slots=True)
class _Waiting:
    id: int
    request: Request
    arrived: float
    deadline: float | None
    answer: asyncio.Future[Answer]
    started: float = field(default=0.0)

    @property
    def pending(self) -> Pending:
        request = self.request
        return Pending(self.id, request.batch, request.length, request.shape_key, self.arrived, self.deadline)


class Scheduler:
    """Runs one model's requests in batches.

    Parameters
    ----------
    model
        The model.
    config
        Bounds of the batches and of the queue.
    metrics
        Where what ran is recorded.
    """

    def __init__(self, model: Model, config: ServerConfig, metrics: Metrics) -> None:
        self._model = model
        self._batching = config.batching
        self._limits = config.batching.limits
        if not model.manifest.batchable:
            self._limits = config.batching.model_copy(update={"max_requests": 1}).limits
        self._admission = Admission(config.queue)
        self._metrics = metrics.model(model.manifest, lambda: len(self._waiting))
        self._workers = ThreadPoolExecutor(config.batching.concurrency, thread_name_prefix=f"run-{model.name}")
        self._waiting: dict[int, _Waiting] = {}  # in order of arrival
        self._ids = itertools.count()
        self._running: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.Handle | None = None
        self._tokens_per_second = 0.0

    async def submit(self, request: Request, deadline: float | None = None) -> Answer:
        """Queue a request and return its answer. Cancelling the call takes the request out of the queue.

        Parameters
        ----------
        request
            A request of this model.
        deadline
            On the clock of `time.monotonic`; its work does not begin after it.

        Raises
        ------
        QueueFullError
            If there is no room.
        DeadlineExceededError
            If the deadline passes before the work begins; nothing is computed.
        LazyneuronError
            If the engine fails on it, by itself.
        """
        self._admission.admit(request.tokens, tokens_per_second=self._tokens_per_second)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        entry = _Waiting(next(self._ids), request, time.monotonic(), deadline, answer)
        self._waiting[entry.id] = entry
        self._look_soon()
        try:
            return await answer
        finally:
            self._take(entry.id)  # of use when the caller was cancelled while it waited

    async def drain(self) -> None:
        """Return when nothing waits or runs."""
        while self._waiting or self._running:
            running = list(self._running)
            await (asyncio.wait(running) if running else asyncio.sleep(_DRAIN_LOOK))

    def close(self) -> None:
        """Let the worker threads end."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _take(self, entry_id: int) -> _Waiting | None:
        """Remove a request from the queue, if it is still there."""
        entry = self._waiting.pop(entry_id, None)
        if entry is not None:
            self._admission.release(entry.request.tokens)
        return entry

    def _look_soon(self) -> None:
        """Look at the queue when the loop has handled what has already arrived, so that it can go together."""
        if isinstance(self._next_look, asyncio.TimerHandle):
            self._next_look.cancel()
            self._next_look = None
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Start what is due, as far as workers are free."""
        self._next_look = None
        while self._waiting and len(self._running) < self._batching.concurrency:
            now = time.monotonic()
            oldest = itertools.islice(self._waiting.values(), _HORIZON * self._limits.max_requests)
            due = plan([entry.pending for entry in oldest], self._limits, now, idle=not self._running)
            for entry_id in due.expired:
                self._expire(entry_id)
            if due.batches:
                self._start([entry for i in due.batches[0] if (entry := self._take(i)) is not None], now)
            elif not due.expired:
                if due.wake_at is not None:
                    delay = max(0.0, due.wake_at - now)
                    self._next_look = asyncio.get_running_loop().call_later(delay, self._look)
                return

    def _expire(self, entry_id: int) -> None:
        entry = self._take(entry_id)
        if entry is not None:
            _fail(entry, DeadlineExceededError("the deadline passed while the request waited; nothing was computed"))

    def _start(self, batch: Sequence[_Waiting], now: float) -> None:
        for entry in batch:
            entry.started = now
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a batch of %s was lost", self._model.name, exc_info=error)
        self._look_soon()

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        try:
            result = await self._compute(batch)
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits for the answer
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            _log.warning("%s: a batch of %d failed (%s); running each alone", self._model.name, len(batch), error)
            for entry in batch:  # one bad request must not fail its neighbours
                await self._run_alone(entry)
            return
        self._deliver(batch, result)

    async def _run_alone(self, entry: _Waiting) -> None:
        if entry.deadline is not None and entry.deadline <= time.monotonic():
            _fail(entry, DeadlineExceededError("the deadline passed before the request could be run alone"))
        elif not entry.answer.done():
            await self._run([entry])

    async def _compute(self, batch: Sequence[_Waiting]) -> BatchResult:
        requests = [entry.request for entry in batch]
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._model.run, requests)

    def _deliver(self, batch: Sequence[_Waiting], result: BatchResult) -> None:
        tokens = sum(entry.request.tokens for entry in batch)
        rate = tokens / max(time.monotonic() - batch[0].started, 1e-6)
        self._tokens_per_second += (rate - self._tokens_per_second) * (_RATE_MEMORY if self._tokens_per_second else 1)
        waits = [entry.started - entry.arrived for entry in batch]
        self._metrics.batch(result, waits)
        examples = sum(entry.request.batch for entry in batch)
        for entry, prediction, wait in zip(batch, result.predictions, waits, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(Answer(prediction, wait, result.seconds, len(batch), examples))


def _fail(entry: _Waiting, error: Exception) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)
