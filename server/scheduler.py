"""One model's requests: they wait in its lane of the planner, run in worker threads, and get their answers.

What runs together, and when, is decided by `engine.planner`, which is pure; this is the part with a clock, an event
loop and threads. `submit` and `_deliver` run on the loop, what `Work` names in the workers.
"""

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lazyneuron.engine.batching import Pending
from lazyneuron.engine.errors import DeadlineExceededError, DeviceMemoryError, ShuttingDownError
from lazyneuron.engine.model import BatchResult, Computed, Model, Prediction, Prepared
from lazyneuron.engine.planner import Run
from lazyneuron.engine.requests import Request
from lazyneuron.engine.splitting import split
from lazyneuron.server.admission import Admission, Outlook
from lazyneuron.server.budget import BudgetControl
from lazyneuron.server.calls import Call, call_or_none
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.tracing import trace_batch
from lazyneuron.server.workers import Workers

__all__ = ["Answer", "Scheduler"]

_log = logging.getLogger(__name__)
_NOT_IN_TIME = "the deadline would have passed before the work was done; nothing was computed"
_TOO_LATE = "the deadline passed while the request waited; nothing was computed"
_FEWEST_TOKENS = 64
"""What a batch's bound is never lowered below: a GPU that has no memory for these is full of something else."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's result and how it came about.

    Attributes
    ----------
    prediction
        Outputs and counts.
    queue_seconds
        From its admission to the start of its batch; of a request that ran in parts, of the first.
    inference_seconds
        The batch's time in the engine; of a request that ran in parts, their batches' together.
    batch_requests, batch_size
        The requests and the examples in that batch; of several the most.
    budget
        The share of the exported k that it was given; of several batches the least.
    """

    prediction: Prediction
    queue_seconds: float
    inference_seconds: float
    batch_requests: int
    batch_size: int
    budget: float = 1.0


@dataclass(slots=True, eq=False)
class _Call:
    """A request that was admitted, and what is known of its parts."""

    request: Request
    client: str
    exact: bool
    answer: asyncio.Future[Answer]
    parts: list["_Part"] = field(default_factory=list)
    waiting: int = 0
    results: dict[int, Answer] = field(default_factory=dict)
    served: Call | None = field(default_factory=call_or_none)
    """The call that it serves, for the log and the trace."""
    thread: int = field(default_factory=threading.get_ident)
    """Its event loop's."""


@dataclass(slots=True, eq=False)
class _Part(Pending):
    """What waits: a request, or a part of one that is larger than a batch."""

    call: _Call = field(kw_only=True)
    request: Request = field(kw_only=True)
    budget: float = 1.0
    waits: bool = True

    @property
    def budgeted(self) -> Request:
        """The request, with the budget that it was given."""
        return self.request if self.budget >= self.request.budget else replace(self.request, budget=self.budget)

    def wanted(self, now: float) -> bool:
        """Return whether somebody waits for it, and it is not past its deadline."""
        return not self.call.answer.done() and (self.deadline is None or self.deadline > now)


@dataclass(slots=True)
class _Batch:
    """A batch on its way through a worker."""

    run: Run
    parts: list[_Part]
    prepared: Prepared | None = None
    computed: Computed | None = None
    error: Exception | None = None
    again: list[tuple[list[_Part], BatchResult | Exception]] = field(default_factory=list)
    """What they gave in smaller batches, where the batch failed."""


@dataclass(slots=True)
class _Ran:
    """What was computed, for the metrics."""

    started: float
    results: list[tuple[Sequence[_Part], BatchResult]] = field(default_factory=list)


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
    workers
        The threads that the models of a server share; None: some of its own.
    """

    def __init__(self, model: Model, config: ServerConfig, metrics: Metrics, workers: Workers | None = None) -> None:
        self._model = model
        self._limits = config.batching.limits
        if not model.manifest.batchable:
            self._limits = replace(self._limits, max_requests=1)
        if model.max_tokens is not None:
            self._limits = replace(self._limits, max_tokens=min(self._limits.max_tokens, model.max_tokens))
        self._admission = Admission(config.queue, config.clients)
        self._control = BudgetControl(config.budget)
        self._metrics = metrics.model(model.manifest, lambda: self._admission.requests, model.devices)
        self._own_workers = Workers() if workers is None else None
        self._workers = workers or self._own_workers or Workers()
        self._lane = self._workers.open(self._limits, model.concurrency or config.batching.concurrency, self)
        lane = self._lane
        self._metrics.show(
            running=lambda: lane.running,
            concurrency=lambda: lane.concurrency,
            budget=lambda: self._control.present,
            queue_tokens=lambda: self._admission.tokens,
            queue_limit=lambda: self._admission.room_at(lane.queue.tokens_per_second, lane.queue.most_tokens),
            batch_limit=lambda: lane.queue.most_tokens,
        )
        self._ids = itertools.count()
        self._calls: set[_Call] = set()
        self._waking = False

    async def submit(
        self, request: Request, deadline: float | None = None, client: str = "", *, exact: bool = False
    ) -> Answer:
        """Queue a request and return its answer. Cancelling the call takes the request out of the queue.

        Parameters
        ----------
        request
            A request of this model.
        deadline
            On the clock of `time.monotonic`; its work does not begin after it.
        client
            Who asks: clients share the engine evenly, and each has limits.
        exact
            Whether its budget is never lowered.

        Raises
        ------
        QueueFullError
            If there is no room.
        DeadlineExceededError
            If the deadline passes before the work begins, or cannot be met; nothing is computed.
        LazyneuronError
            If the engine fails on it, by itself.
        """
        loop = asyncio.get_running_loop()
        call = _Call(request, client, exact, loop.create_future())
        if call.served is not None and call.served.alone and self._run_alone(call, deadline):
            return call.answer.result()
        self._enqueue(call, deadline)
        self._calls.add(call)
        if not self._waking:  # what has already arrived at the loop is to go together
            self._waking = True
            loop.call_soon(self._wake)
        timer = None
        if deadline is not None:
            timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, call)
        try:
            return await call.answer
        finally:
            if timer is not None:
                timer.cancel()
            self._calls.discard(call)
            self._clear(call)

    def check(self, deadline: float | None = None, client: str = "") -> None:
        """Raise what `submit` would for the smallest request: it spares the work of reading what is refused anyway.

        Raises
        ------
        QueueFullError, DeadlineExceededError
            As `submit`.
        """
        if not self._admission.requests:
            return
        with self._workers.lock:
            self._admission.check(1, self._outlook(1, deadline, client), client)

    async def drain(self) -> None:
        """Return when nothing waits or runs."""
        while self._calls:
            await asyncio.wait([call.answer for call in self._calls])
            await asyncio.sleep(0)  # for those that wait for the answers to take them

    def close(self) -> None:
        """Refuse what still waits, and let the model go when its last batch has run."""
        for call in list(self._calls):
            self._clear(call, answered=False)
            with contextlib.suppress(RuntimeError):  # its event loop may be closed
                _fail(call, ShuttingDownError("the server stopped before the request could be run"))
        self._workers.leave(self._lane)
        if self._own_workers is not None:
            self._own_workers.close()

    # On the event loop.

    def _run_alone(self, call: _Call, deadline: float | None) -> bool:
        """Run a request on this thread, without its having waited, if it is alone; else change nothing."""
        request, now = call.request, time.monotonic()
        if not self._workers.planner.quiet(now):
            return False
        if request.tokens > self._lane.queue.most_tokens or (deadline is not None and deadline <= now):
            return False  # that is refused, or split
        call.parts = [self._part(call, request, now, deadline, waits=False)]
        return self._workers.run_alone(self._lane, call.parts[0])

    def _part(self, call: _Call, request: Request, now: float, deadline: float | None, *, waits: bool = True) -> _Part:
        return _Part(
            next(self._ids), request.batch, request.length, request.shape_key, now, deadline, call.client,
            call=call, request=request, waits=waits,
        )  # fmt: skip

    def _enqueue(self, call: _Call, deadline: float | None) -> None:
        now, request, workers, lane = time.monotonic(), call.request, self._workers, self._lane
        pieces = split(self._model.manifest, request, lane.queue.most_tokens)
        call.waiting = len(pieces)
        call.parts = [self._part(call, piece, now, deadline) for piece in pieces]
        with workers.lock:
            outlook = self._outlook(request.tokens, deadline, call.client)
            self._admission.admit(request.tokens, outlook, call.client)
            workers.add(lane, call.parts)

    def _outlook(self, tokens: int, deadline: float | None, client: str) -> Outlook:
        queue = self._lane.queue
        if deadline is None:
            return Outlook(queue.ahead_of(client, tokens), queue.tokens_per_second, queue.most_tokens)
        now = time.monotonic()
        taken = self._workers.planner.seconds_taken(self._lane, now)
        return Outlook(
            queue.ahead_of(client, tokens), queue.tokens_per_second, queue.most_tokens, deadline - now, taken
        )

    def _wake(self) -> None:
        self._waking = False
        self._workers.wake(self._lane)

    def _expire(self, call: _Call) -> None:
        if call.waiting == len(call.parts):
            _fail(call, DeadlineExceededError(_TOO_LATE))
        elif call.waiting:
            _fail(call, DeadlineExceededError("the deadline passed when a part of the request had run"))

    def _clear(self, call: _Call, *, answered: bool = True) -> None:
        """Take out what of a call still waits."""
        with self._workers.lock:
            if call.waiting:
                if call.served is not None:
                    call.served.left_queue = call.waiting == len(call.parts)
                for part in call.parts:
                    self._lane.queue.discard(part)
                    self._left(part)
            if answered:
                self._admission.answered(call.client)

    def _deliver(self, ran: _Ran, answers: Sequence[tuple[_Call, Answer | Exception]]) -> None:
        """Record what ran, then give the answers."""
        self._trace(ran)
        self._record(ran)
        self._give(answers)

    def _trace(self, ran: _Ran) -> None:
        for parts, result in ran.results:
            served = [part.call.served for part in parts]
            trace_batch(served, [part.arrived for part in parts], ran.started, result.seconds, len(parts))

    def _record(self, ran: _Ran) -> None:
        for parts, result in ran.results:
            self._metrics.batch(result, [ran.started - part.arrived for part in parts])
            lowered = [part for part in parts if part.budget < part.request.budget]
            if lowered:
                self._metrics.lowered(len(lowered), sum(part.tokens for part in lowered))

    @staticmethod
    def _give(answers: Sequence[tuple[_Call, Answer | Exception]]) -> None:
        for call, answer in answers:
            call.served = None  # it knows its model, and a worker may remember its last batch
            if isinstance(answer, Exception):
                _fail(call, answer)
            elif not call.answer.done():
                call.answer.set_result(answer)

    # In the workers: what `workers.Work` names.

    def formed(self, run: Run) -> None:
        """Decide, under the lock, what the requests of a batch may spend: load counts."""
        present = self._control.present
        if self._control.lowers:
            queue = self._lane.queue
            present = self._control.update(self._admission.pressure_at(queue.tokens_per_second, queue.most_tokens))
        for part in run.batch:
            assert isinstance(part, _Part)
            asked = part.request.budget if self._model.manifest.budget_input is not None else 1.0
            part.budget = asked if part.call.exact else min(asked, present)

    def started(self, run: Run) -> None:
        """Note, under the lock, that the requests of a batch wait no more."""
        for part in run.batch:
            self._left(part)

    def expired(self, pending: Pending) -> None:
        """Note, under the lock, that a request left the queue past its deadline."""
        self._left(pending)
        assert isinstance(pending, _Part)
        call = pending.call
        assert pending.deadline is not None
        why = _TOO_LATE if pending.deadline <= time.monotonic() else _NOT_IN_TIME
        _on_loop_of(call, _fail, call, DeadlineExceededError(why))

    def prepare(self, run: Run, earlier: _Batch | None = None) -> _Batch:
        """Join the requests that somebody still waits for."""
        now = time.monotonic()
        parts = [part for part in run.batch if isinstance(part, _Part) and part.wanted(now)]
        if earlier is not None and len(parts) == len(earlier.parts):
            return earlier
        batch = _Batch(run, parts)
        if parts:
            try:
                batch.prepared = self._model.prepare([part.budgeted for part in parts])
            except Exception as error:  # noqa: BLE001  it belongs to whoever waits for the answer
                batch.error = error
        return batch

    def compute(self, batch: _Batch) -> _Batch:
        """Run a batch in ONNX Runtime."""
        if batch.prepared is not None:
            try:
                batch.computed = self._model.compute(batch.prepared)
            except DeviceMemoryError as error:
                batch.error = error
                self._lower_bound(batch.parts, error)
                batch.again = self._again(self._halves(batch.parts))
            except Exception as error:  # noqa: BLE001
                batch.error = error
                if len(batch.parts) > 1:
                    _log.warning(
                        "%s: a batch of %d failed (%s); running each alone", self._model.name, len(batch.parts), error
                    )
                    batch.again = self._again([[part] for part in batch.parts])
        return batch

    def finish(self, batch: _Batch) -> None:
        """Cut up the results, and give each request its own."""
        ran = _Ran(batch.run.started)
        answers: list[tuple[_Call, Answer | Exception]] = []
        if batch.computed is not None:
            try:
                ran.results.append((batch.parts, self._model.finish(batch.computed)))
            except Exception as error:  # noqa: BLE001
                batch.error = error
        for parts, outcome in batch.again:
            if isinstance(outcome, BatchResult):
                ran.results.append((parts, outcome))
            else:
                answers += [(part.call, outcome) for part in parts]
        for ran_parts, result in ran.results:
            answers += self._answers(ran_parts, result, ran.started)
        if batch.error is not None and not batch.again:
            answers += [(part.call, batch.error) for part in batch.parts]
        late = set(batch.run.batch).difference(batch.parts)
        answers += [(p.call, DeadlineExceededError(_TOO_LATE)) for p in late if isinstance(p, _Part)]
        first = batch.run.batch[0]
        assert isinstance(first, _Part)
        if first.call.thread == threading.get_ident():
            self._trace(ran)
            self._give(answers)
            first.call.answer.get_loop().call_soon(self._record, ran)  # when the answer is on its way
        else:
            _on_loop_of(first.call, self._deliver, ran, answers)

    def _again(self, groups: Sequence[list[_Part]]) -> list[tuple[list[_Part], BatchResult | Exception]]:
        """Run the requests of a batch that failed in smaller ones: a bad request must not fail its neighbours."""
        outcomes: list[tuple[list[_Part], BatchResult | Exception]] = []
        for group in groups:
            now = time.monotonic()
            wanted = [part for part in group if part.wanted(now)]
            if late := [part for part in group if part not in wanted]:
                outcomes.append(
                    (late, DeadlineExceededError("the deadline passed before the request could be run again"))
                )
            if not wanted:
                continue
            try:
                outcomes.append((wanted, self._model.run([part.budgeted for part in wanted])))
            except DeviceMemoryError as error:
                words = f"{error}; a larger batch did not, either: send shorter inputs, or fewer at a time"
                outcomes.append((wanted, DeviceMemoryError(words)))
            except Exception as error:  # noqa: BLE001
                if len(wanted) > 1:
                    outcomes += self._again([[part] for part in wanted])
                else:
                    outcomes.append((wanted, error))
        return outcomes

    def _lower_bound(self, parts: Sequence[_Part], error: DeviceMemoryError) -> None:
        """Let no batch be larger than half of one that a GPU had no memory for, until the version is loaded anew."""
        tokens = sum(part.batch for part in parts) * max(part.length for part in parts)
        queue = self._lane.queue
        with self._workers.lock:
            bound = max(_FEWEST_TOKENS, tokens // 2)
            if bound < queue.limits.max_tokens:
                queue.limits = replace(queue.limits, max_tokens=bound)
            bound = self._model.max_tokens = queue.limits.max_tokens
        self._metrics.out_of_memory()
        _log.warning("%s; batches are of up to %d tokens from now on, and these run once more in halves", error, bound)

    def _halves(self, parts: list[_Part]) -> list[list[_Part]]:
        """Return the requests of a batch in two groups; of a lone request its examples, or itself if it has but one."""
        if len(parts) > 1:
            total, sums = sum(part.tokens for part in parts), itertools.accumulate(part.tokens for part in parts)
            middle = max(1, sum(so_far <= total // 2 for so_far in itertools.islice(sums, len(parts) - 1)))
            return [parts[:middle], parts[middle:]]
        (part,) = parts
        pieces = split(self._model.manifest, part.request, part.tokens // 2)
        if len(pieces) == 1:
            return [parts]
        divided = [
            _Part(
                next(self._ids), p.batch, p.length, part.key, part.arrived, part.deadline, part.client,
                call=part.call, request=p, budget=part.budget, waits=False,
            )
            for p in pieces
        ]  # fmt: skip
        with self._workers.lock:
            place = part.call.parts.index(part)
            part.call.parts[place : place + 1] = divided
        return [[piece] for piece in divided]

    def _answers(
        self, parts: Sequence[_Part], result: BatchResult, started: float
    ) -> list[tuple[_Call, Answer | Exception]]:
        """Return the answers that a batch completes."""
        examples = sum(part.batch for part in parts)
        complete: list[tuple[_Call, Answer | Exception]] = []
        for part, prediction in zip(parts, result.predictions, strict=True):
            call = part.call
            answer = Answer(
                prediction, started - part.arrived, result.seconds, len(parts), examples, part.budget
            )  # fmt: skip
            if len(call.parts) == 1:
                complete.append((call, answer))
                continue
            with self._workers.lock:
                call.results[part.id] = answer
                last = len(call.results) == len(call.parts)
            if last:
                complete.append((call, self._rejoined(call)))
        return complete

    def _rejoined(self, call: _Call) -> Answer:
        answers = [call.results[part.id] for part in call.parts]
        return Answer(
            self._model.rejoin(call.request, [answer.prediction for answer in answers]),
            min(answer.queue_seconds for answer in answers),
            sum(answer.inference_seconds for answer in answers),
            max(answer.batch_requests for answer in answers),
            max(answer.batch_size for answer in answers),
            min(answer.budget for answer in answers),
        )

    def _left(self, part: Pending) -> None:
        assert isinstance(part, _Part)
        if part.waits:
            part.waits = False
            part.call.waiting -= 1
            self._admission.release(part.tokens, part.call.client, requests=0 if part.call.waiting else 1)


def _fail(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)


def _on_loop_of(call: _Call, function: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        call.answer.get_loop().call_soon_threadsafe(function, *arguments)
