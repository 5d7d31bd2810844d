"""The batch planner: a pure function of what is pending, the limits and the time.

It knows no threads, sockets, metrics or clock, so that it can be tested with a simulated one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

__all__ = ["Limits", "Pending", "Plan", "plan"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a batch.

    Attributes
    ----------
    max_tokens
        Tokens in a batch, padding included. A request larger than this runs alone.
    max_requests
        Requests in a batch.
    window
        Seconds that a request may wait for company.
    max_padding
        The share of a batch's tokens that may be padding.
    """

    max_tokens: int = 8192
    max_requests: int = 64
    window: float = 0.002
    max_padding: float = 0.25


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits.

    Attributes
    ----------
    id
        Unique among the pending.
    batch, length
        Its examples, and the length that each is padded to with its batch's longest (1 where nothing is ragged).
    key
        Requests with equal keys can share a batch.
    arrived, deadline
        Seconds on the caller's clock; a deadline of None is never.
    """

    id: int
    batch: int
    length: int
    key: Hashable
    arrived: float
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes
    ----------
    batches
        Ids to run together, the most urgent batch first.
    expired
        Ids whose deadline has passed; they are not to be run.
    wake_at
        When to plan again if nothing arrives before; None when nothing is left waiting.
    """

    batches: list[list[int]] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)
    wake_at: float | None = None


def plan(pending: Sequence[Pending], limits: Limits, now: float, *, idle: bool = False) -> Plan:
    """Decide which requests run together now.

    A batch is due when it is full, when its oldest request has waited for `limits.window`, or when the engine is
    `idle` (then waiting would gain nothing). Requests of like length go together: a batch is grown around its
    oldest request by the nearest lengths, as far as the token limit and the share of padding allow, so no request
    is overtaken for ever by better-fitting ones.

    Parameters
    ----------
    pending
        All that waits, in any order.
    limits
        What bounds a batch.
    now
        Seconds on the clock of `Pending.arrived`.
    idle
        Whether an engine stands ready.
    """
    result = Plan()
    waiting: dict[int, Pending] = {}
    for request in sorted(pending, key=lambda r: (r.arrived, r.id)):
        if request.deadline is not None and request.deadline <= now:
            result.expired.append(request.id)
        else:
            waiting[request.id] = request
    wake: list[float] = []
    while waiting:
        oldest = next(iter(waiting.values()))
        batch, full = _grow(oldest, waiting, limits)
        for request in batch:
            del waiting[request.id]
        if full or idle or now >= oldest.arrived + limits.window:
            result.batches.append([r.id for r in batch])
        else:
            wake.append(oldest.arrived + limits.window)
            wake.extend(r.deadline for r in batch if r.deadline is not None)
    return Plan(result.batches, result.expired, min(wake, default=None))


def _grow(oldest: Pending, waiting: dict[int, Pending], limits: Limits) -> tuple[list[Pending], bool]:
    """Return the batch around `oldest` and whether it leaves no room for another request like it."""
    mates = [r for r in waiting.values() if r.key == oldest.key and r.id != oldest.id]
    mates.sort(key=lambda r: (abs(r.length - oldest.length), r.arrived, r.id))
    batch, examples, longest, real = [oldest], oldest.batch, oldest.length, oldest.batch * oldest.length
    full = examples * longest >= limits.max_tokens or limits.max_requests <= 1
    for mate in mates:
        if len(batch) == limits.max_requests:
            return batch, True
        new_longest = max(longest, mate.length)
        tokens = (examples + mate.batch) * new_longest
        new_real = real + mate.batch * mate.length
        if tokens > limits.max_tokens:
            full = True
            continue
        if tokens - new_real > limits.max_padding * tokens:
            continue
        batch.append(mate)
        examples, longest, real = examples + mate.batch, new_longest, new_real
    return batch, full or len(batch) == limits.max_requests or examples * longest >= limits.max_tokens
