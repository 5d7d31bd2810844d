"""The threads that run batches, shared by all models of a server.

A thread takes its next batch from the planner itself when the engine is free, so neither waits for the event loop; one
thread more than can run prepares the next full batch meanwhile, or cuts up the last one's results.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from lazyneuron.engine.batching import Limits, Pending
from lazyneuron.engine.planner import Lane, Planner, Run

__all__ = ["Work", "Workers"]

_log = logging.getLogger(__name__)


class Work(Protocol):
    """What one model does with its batches. Nothing here may raise."""

    def formed(self, run: Run) -> None:
        """Note, under the lock, which requests are a batch."""

    def started(self, run: Run) -> None:
        """Note, under the lock, that its requests wait no more."""

    def expired(self, pending: Pending) -> None:
        """Note, under the lock, that a request left the queue past its deadline."""

    def prepare(self, run: Run, earlier: Any = None) -> Any:  # noqa: ANN401  the model's own
        """Make the batch's input; called again, with what it gave, when the batch had to wait for its turn."""

    def compute(self, prepared: Any) -> Any:  # noqa: ANN401
        """Run it."""

    def finish(self, computed: Any) -> None:  # noqa: ANN401
        """Answer its requests."""


class Workers:
    """Worker threads around a `Planner`.

    Attributes
    ----------
    lock
        Held by whoever uses the planner or what depends on it.
    planner
        What waits and runs.
    """

    def __init__(self) -> None:
        self.planner = Planner()
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._work: dict[Lane, Work] = {}
        self._leaving: set[Lane] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._handed: deque[Run] = deque()  # started for threads that are waking up
        self._arriving: set[Lane] = set()
        self._closed = False

    def open(self, limits: Limits, concurrency: int, work: Work) -> Lane:
        """Return a new model's lane; there are threads for it from now on."""
        with self.lock:
            lane = self.planner.open(limits, concurrency)
            self._work[lane] = work
            while len(self._threads) < concurrency + 1:
                name = f"lazyneuron-run-{len(self._threads)}"
                thread = threading.Thread(target=self._loop, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            return lane

    def leave(self, lane: Lane) -> None:
        """Forget a model for which nothing waits, once its last batch has run."""
        with self.lock:
            self._arriving.discard(lane)
            self._leaving.add(lane)
            self._forget(lane)

    def close(self) -> None:
        """Let the threads end, each after the batch that it runs."""
        with self.lock:
            self._closed = True
            self._changed.notify_all()

    def add(self, lane: Lane, requests: Iterable[Pending]) -> None:
        """Let requests wait; nothing new starts before `wake`, so that what arrives with them goes together."""
        for pending in requests:
            self.planner.add(lane, pending)
        self._arriving.add(lane)

    def run_alone(self, lane: Lane, pending: Pending) -> bool:
        """Run a request here and now, if it is short and alone. Return whether it was.

        To hand it to a thread and back would take as long as it does, since both have gone cold meanwhile.
        """
        with self.lock:
            run = None if self._arriving else self.planner.alone(lane, pending)
            if run is None:
                return False
            work = self._work[lane]
            work.formed(run)
        self._serve(run, work, ahead=False)
        return True

    def wake(self, lane: Lane) -> None:
        """Start what is due, as far as threads are idle; the others look for themselves when they are free."""
        with self.lock:
            self._arriving.discard(lane)
            while self._idle > len(self._handed) and (run := self._start_next()) is not None:
                self._handed.append(run)
                self._changed.notify()
            if self._idle > len(self._handed) and self.planner.waiting:
                self._changed.notify()  # for one to prepare, or to wait for a window

    def _loop(self) -> None:
        while (found := self._next()) is not None:
            run, ahead = found
            try:
                self._serve(run, self._work[run.lane], ahead=ahead)
            except Exception:  # noqa: BLE001  the thread has to go on
                _log.exception("a batch was lost")
            del found, run  # an idle thread must not keep a batch's arrays

    def _next(self) -> tuple[Run, bool] | None:
        """Return a batch, and whether it still has to wait for its turn; None when the threads are to end."""
        with self.lock:
            while self._handed or not self._closed:
                if self._handed:
                    return self._handed.popleft(), False
                if (run := self._start_next()) is not None:
                    if self._idle and self.planner.waiting:
                        self._changed.notify()  # there may be room for one more, or one to prepare
                    return run, False
                if (run := self._prepare_next()) is not None:
                    return run, True
                now = time.monotonic()
                wake_at = self.planner.wake_at(now)
                self._idle += 1
                self._changed.wait(None if wake_at is None else max(0.0, wake_at - now))
                self._idle -= 1
        return None

    def _start_next(self) -> Run | None:
        if self._arriving:
            return None
        run = self.planner.next(time.monotonic())
        self._tell_expired()
        if run is not None:
            work = self._work[run.lane]
            work.formed(run)
            work.started(run)
        return run

    def _prepare_next(self) -> Run | None:
        if self._arriving:
            return None
        run = self.planner.ahead(time.monotonic())
        self._tell_expired()
        if run is not None:
            self._work[run.lane].formed(run)
        return run

    def _tell_expired(self) -> None:
        for lane, pending in self.planner.take_expired():
            self._work[lane].expired(pending)

    def _serve(self, run: Run, work: Work, *, ahead: bool) -> None:
        prepared = computed = None
        try:
            prepared = work.prepare(run)
            if ahead:
                self._wait_for_turn(run, work)
                prepared = work.prepare(run, prepared)
            computed = work.compute(prepared)
        finally:
            with self.lock:
                self.planner.finish(run, time.monotonic())
                self._forget(run.lane)
                if self.planner.waiting:
                    self._changed.notify_all()
        work.finish(computed)

    def _wait_for_turn(self, run: Run, work: Work) -> None:
        with self.lock:
            while not self.planner.start(run, time.monotonic()):
                self._changed.wait()
            work.started(run)

    def _forget(self, lane: Lane) -> None:
        if lane in self._leaving and not self.planner.busy(lane):
            self._leaving.discard(lane)
            del self._work[lane]
            self.planner.close(lane)
