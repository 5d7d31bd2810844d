"""What runs next on a server: the queues of its models, and whose turn it is. Pure, with the time as an argument.

A `Planner` is told what arrives, what is given up and what has finished, and says what to run. It is not for several
threads at once; the server calls it under a lock, and the tests with a simulated clock.
"""

import math
from dataclasses import dataclass, field

from lazyneuron.engine.batching import Limits, Pending, Queue
from lazyneuron.engine.fairness import Turns
from lazyneuron.engine.speed import Speed

__all__ = ["Lane", "Planner", "Run"]

_LONGEST_PREPARED = 0.02
"""Seconds. Joining a batch's arrays takes a thousandth: where a batch takes much longer, having done so is no gain, and
what is chosen when it starts is chosen better, and with its deadlines known better."""
_SHORT = 0.004
"""Seconds. For so long, whoever takes requests in may as well run the only one itself."""
_ALONE = 0.05
"""Seconds."""
_MEMORY = 0.2  # the weight of the latest batch in the moving average of a batch's seconds


@dataclass(eq=False)
class Lane:
    """One model's part of the planner.

    Attributes
    ----------
    queue
        What waits.
    concurrency
        How many of its batches may run at the same time.
    running
        How many do.
    speed
        How fast it works off a backlog.
    """

    queue: Queue
    concurrency: int
    running: int = 0
    speed: Speed = field(default_factory=Speed)
    expected: float = 0.0
    """Seconds that a batch has taken lately."""
    usual: float = 0.0
    """Tokens that a batch has had lately."""
    since: float = 0.0
    """From when on there has been work without a break."""
    until: float = 0.0
    """When the batch that was begun last will have run, as far as is known."""


@dataclass(eq=False)
class Run:
    """A batch on its way.

    Attributes
    ----------
    lane
        Whose it is.
    batch
        Its requests; for the caller to thin out before it starts.
    backlog
        Whether more waited when it was taken, so that its speed is that of a model that is kept busy.
    """

    lane: Lane
    batch: list[Pending]
    backlog: bool
    tokens: int = 0
    started: float = 0.0
    charged: float = 0.0


class Planner:
    """Decides what runs, over all models of a server.

    Models share the cores evenly by time (`Turns`), clients share each model evenly by tokens (`Queue`).
    """

    def __init__(self) -> None:
        self._expired: list[tuple[Lane, Pending]] = []
        self._lanes: list[Lane] = []
        self._turns = Turns()
        self._ahead: Run | None = None
        self._running = 0
        self._company = -math.inf  # when a request last found another one there

    def open(self, limits: Limits, concurrency: int) -> Lane:
        """Return a new model's lane. All batches that one model may run at once take the whole machine together."""
        lane = Lane(Queue(limits), concurrency)
        self._lanes.append(lane)
        self._turns.join(lane, 1.0 / concurrency)
        return lane

    def close(self, lane: Lane) -> None:
        """Forget a model for which nothing waits or runs."""
        self._lanes.remove(lane)
        self._turns.leave(lane)

    def add(self, lane: Lane, pending: Pending) -> None:
        """Let a request wait."""
        if self._running or len(lane.queue):
            self._company = pending.arrived
        if not len(lane.queue):
            self._turns.arrived(lane)
            if not self.busy(lane):
                lane.since = pending.arrived
        lane.queue.add(pending)

    def next(self, now: float) -> Run | None:
        """Return a batch to run at once, or None. It counts as running from now on, until `finish`."""
        while self._ahead is None and (lane := self._whose(now)) is not None and self._turns.fits(lane):
            if (run := self._take(lane, now)) is not None:  # else all that waited had expired
                self._begin(run, now)
                return run
        return None

    def quiet(self, now: float) -> bool:
        """Return whether nothing runs, and no request has found another one there for a while."""
        return not self._running and now - self._company > _ALONE

    def alone(self, lane: Lane, pending: Pending) -> Run | None:
        """Return a request that does not wait, to run at once: if it is a short one, and all there is to do.

        So it must have been for a while: where requests come side by side, they are to run together. As with `next`.
        """
        if (
            not self.quiet(pending.arrived)
            or lane.concurrency != 1
            or not lane.expected
            or lane.expected * max(1.0, pending.tokens / lane.usual) > _SHORT
            or self.waiting
        ):
            return None
        self._turns.arrived(lane)
        lane.since = pending.arrived
        lane.queue.arrived(pending.arrived)
        run = Run(lane, [pending], backlog=False, tokens=pending.tokens)
        self._begin(run, pending.arrived)
        return run

    def ahead(self, now: float) -> Run | None:
        """Return a batch to prepare while no more can run, or None; `start` tells when it may.

        Only a full one, of a model whose batches are short: whatever arrives until it starts could not have joined it.
        There is one at a time, of the model whose turn is next, and it starts before anything else.
        """
        lane = self._whose(now, running_too=True) if self._ahead is None else None
        if lane is None or not lane.queue.full or lane.expected > _LONGEST_PREPARED:
            return None
        self._ahead = self._take(lane, max(now, lane.until))
        return self._ahead

    def start(self, run: Run, now: float) -> bool:
        """Let a batch that was prepared run, if it may now."""
        if run is not self._ahead:
            msg = "this batch does not wait to start"
            raise ValueError(msg)
        if not self._turns.fits(run.lane) or run.lane.running >= run.lane.concurrency:
            return False
        self._ahead = None
        self._begin(run, now)
        return True

    def finish(self, run: Run, now: float) -> None:
        """Note that a batch has run."""
        lane, seconds = run.lane, max(0.0, now - run.started)
        lane.running -= 1
        self._running -= 1
        self._turns.end(lane, run.charged, seconds)
        weight = _MEMORY if lane.expected else 1.0
        lane.expected += (seconds - lane.expected) * weight
        lane.usual += (run.tokens - lane.usual) * weight
        lane.speed.finished(run.tokens, lane.since, now, backlog=run.backlog)
        lane.queue.tokens_per_second = lane.speed.tokens_per_second

    def seconds_taken(self, lane: Lane, now: float) -> float:
        """Return about how long a model still has to do with what has left its queue: it runs, or is prepared."""
        if not self.busy(lane):
            return 0.0
        prepared = lane.expected if self._ahead is not None and self._ahead.lane is lane else 0.0
        return max(0.0, lane.until - now) + prepared

    @property
    def waiting(self) -> bool:
        """Whether anything waits to run."""
        return self._ahead is not None or any(len(lane.queue) for lane in self._lanes)

    def busy(self, lane: Lane) -> bool:
        """Return whether a model has a batch that runs or will."""
        return lane.running > 0 or (self._ahead is not None and self._ahead.lane is lane)

    def take_expired(self) -> list[tuple[Lane, Pending]]:
        """Return what was found past its deadline and taken out since the last call."""
        expired, self._expired = self._expired, []
        return expired

    def wake_at(self, now: float) -> float | None:
        """Return when to ask `next` again if nothing arrives or finishes before; None for never."""
        free = [lane for lane in self._lanes if lane.running < lane.concurrency]
        return min((due for lane in free if (due := self._due_at(lane)) is not None and due > now), default=None)

    def _due_at(self, lane: Lane) -> float | None:
        return lane.queue.due_at(idle=not lane.running)

    def _whose(self, now: float, *, running_too: bool = False) -> Lane | None:
        """Return the model whose turn it is, of those whose next batch is due and that may run one more."""
        ready = [
            lane
            for lane in self._lanes
            if (running_too or lane.running < lane.concurrency)
            and (due := self._due_at(lane)) is not None
            and due <= now
        ]
        first = self._turns.first(ready)
        assert first is None or isinstance(first, Lane)
        return first

    def _take(self, lane: Lane, now: float) -> Run | None:
        taken = lane.queue.take(now)
        self._expired += [(lane, pending) for pending in taken.expired]
        if not taken.batch:
            return None
        return Run(lane, taken.batch, backlog=len(lane.queue) > 0, tokens=sum(p.tokens for p in taken.batch))

    def _begin(self, run: Run, now: float) -> None:
        run.started, run.charged = now, run.lane.expected
        run.lane.until = now + run.lane.expected
        run.lane.running += 1
        self._running += 1
        self._turns.begin(run.lane, run.charged)
