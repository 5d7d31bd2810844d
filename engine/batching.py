"""What waits for one model, and which of it runs together next: pure, with the time as an argument.

It knows no threads, sockets, metrics or clock, so that it can be tested with a simulated one. A batch is found without
a walk over what waits: requests stand in heaps, by length and by turn, and those that left are skipped when met.
"""

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from lazyneuron.engine.fairness import ClientTags

__all__ = ["Limits", "Pending", "Queue", "Taken"]

# Requests that are passed over at one length (larger than the room that is left) before the next length is tried.
_MOST_MISFITS = 8
# Company is sought among this many batches' worth of those whose turn comes first: more finds better fits, and delays
# those of rare lengths more.
_HORIZON = 4.0
_MARGIN = 1.25  # what a batch may take, of what is expected: under overload many would else end just too late
_GAP_MEMORY = 0.1  # the weight of the latest gap between arrivals in their moving average
_SPARE = 64  # heap entries without a request that are borne before a heap is cleaned


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
        The most seconds that a request waits for company while other batches run.
    max_padding
        The share of a batch's tokens that may be padding.
    max_seconds
        How long a batch shall take, as far as the speed is known: it is made smaller than `max_tokens` for that.
    """

    max_tokens: int = 8192
    max_requests: int = 64
    window: float = 0.002
    max_padding: float = 0.25
    max_seconds: float = 0.25


@dataclass(slots=True, eq=False)
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
    client
        Who asks: clients share the engine evenly.
    """

    id: int
    batch: int
    length: int
    key: Hashable
    arrived: float
    deadline: float | None = None
    client: str = ""

    @property
    def tokens(self) -> int:
        """Its size: examples × length."""
        return self.batch * self.length


@dataclass(frozen=True, slots=True)
class Taken:
    """What left a queue.

    Attributes
    ----------
    batch
        What runs together; empty where nothing is left that could.
    expired
        What is past its deadline and is not to be run.
    """

    batch: list[Pending]
    expired: list[Pending]


_Item = tuple[float, int, Pending]  # when, a number of its own, and what; the number decides between equals


@dataclass(slots=True)
class _Lengths:
    """The requests of one key: a heap by tag for each length, and the lengths in order."""

    sizes: list[int] = field(default_factory=list)
    heaps: dict[int, list[_Item]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, item: _Item) -> None:
        length = item[2].length
        heap = self.heaps.get(length)
        if heap is None:
            heap = self.heaps[length] = []
            self.sizes.insert(bisect_left(self.sizes, length), length)
            self.counts[length] = 0
        heapq.heappush(heap, item)
        self.counts[length] += 1

    def left(self, length: int) -> None:
        """Note that one request of this length is gone."""
        self.counts[length] -= 1
        if not self.counts[length]:
            del self.counts[length], self.heaps[length]
            del self.sizes[bisect_left(self.sizes, length)]

    def outwards(self, length: int) -> Iterator[int]:
        """Give the lengths there are now, the nearest to `length` first."""
        sizes = tuple(self.sizes)
        up = bisect_left(sizes, length)
        down = up - 1
        while up < len(sizes) or down >= 0:
            upwards = down < 0 or (up < len(sizes) and sizes[up] - length <= length - sizes[down])
            yield sizes[up if upwards else down]
            up, down = (up + 1, down) if upwards else (up, down - 1)


class Queue:
    """One model's queue.

    Clients get equal shares of the tokens that run (`ClientTags`): the request whose turn it is leads a batch, and the
    batch is filled with what is nearest to it in length, so no request is overtaken for ever by better-fitting ones,
    and a client with a thousand requests does not keep another's only one waiting.

    Parameters
    ----------
    limits
        What bounds a batch.

    Attributes
    ----------
    tokens
        The size of what waits.
    tokens_per_second
        The speed, for whoever measures it to set; 0 while it is not known.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tokens = 0
        self.tokens_per_second = 0.0
        self._waiting: dict[int, Pending] = {}  # in order of arrival
        self._tags = ClientTags()
        self._numbers = itertools.count()
        self._turns: list[_Item] = []
        self._deadlines: list[_Item] = []
        self._groups: dict[Hashable, _Lengths] = {}
        self._gap = float("inf")  # seconds between arrivals, lately
        self._latest: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, pending: Pending) -> bool:
        return self._waiting.get(pending.id) is pending

    @property
    def most_tokens(self) -> int:
        """The most tokens of a batch, by size and by time."""
        limits, speed = self.limits, self.tokens_per_second
        return min(limits.max_tokens, max(1, int(speed * limits.max_seconds))) if speed else limits.max_tokens

    @property
    def full(self) -> bool:
        """Whether as much waits as a batch can hold."""
        return self.tokens >= self.most_tokens or len(self._waiting) >= self.limits.max_requests

    def add(self, pending: Pending) -> None:
        """Let a request wait.

        Raises
        ------
        ValueError
            If one of that id waits already.
        """
        if pending.id in self._waiting:
            msg = f"request {pending.id} waits already"
            raise ValueError(msg)
        self.arrived(pending.arrived)
        self._waiting[pending.id] = pending
        self.tokens += pending.tokens
        number = next(self._numbers)
        item = (self._tags.enter(pending.client, pending.tokens), number, pending)
        heapq.heappush(self._turns, item)
        group = self._groups.get(pending.key)
        if group is None:
            group = self._groups[pending.key] = _Lengths()
        group.add(item)
        if pending.deadline is not None:
            heapq.heappush(self._deadlines, (pending.deadline, number, pending))

    def arrived(self, now: float) -> None:
        """Note that a request came, whether it waits or not."""
        if self._latest is not None:
            gap = max(0.0, now - self._latest)
            self._gap = gap if self._gap == float("inf") else self._gap + (gap - self._gap) * _GAP_MEMORY
        self._latest = now

    def discard(self, pending: Pending) -> bool:
        """Take a request out that nobody waits for any more. Return whether it still waited."""
        if pending not in self:
            return False
        self._remove(pending)
        self._tags.gave_up(pending.client)
        return True

    def waiting_tokens(self, client: str) -> int:
        """Return the size of what waits for one client."""
        return self._tags.waiting_tokens(client)

    def ahead_of(self, client: str, tokens: int) -> int:
        """Return about how many tokens run before a request that this client would now add: its fair share counts."""
        own = self._tags.waiting_tokens(client)
        clients = self._tags.clients + (not own)
        return min(self.tokens, own + (clients - 1) * (own + tokens))

    def expire(self, now: float) -> list[Pending]:
        """Take out and return what is past its deadline."""
        expired = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2] not in self):
            pending = heapq.heappop(self._deadlines)[2]
            if self.discard(pending):
                expired.append(pending)
        return expired

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of what waits."""
        while self._deadlines and self._deadlines[0][2] not in self:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def due_at(self, *, idle: bool) -> float | None:
        """Return from when on a batch shall start if nothing more arrives; None where nothing waits.

        At once when a batch is full, and when the engine is `idle`: then waiting would gain nothing. Else when the
        oldest request has waited for the window, which follows the load: it is no longer than a batch takes to fill
        at the rate of late arrivals, and there is none when nobody is likely to arrive within it.
        """
        if not self._waiting:
            return None
        if idle or self.full:
            return float("-inf")
        oldest = next(iter(self._waiting.values()))
        limits = self.limits
        if self._gap > limits.window:
            return oldest.arrived
        room = limits.max_requests - len(self._waiting)
        return oldest.arrived + min(limits.window, 2 * room * self._gap)

    def take(self, now: float) -> Taken:
        """Take the next batch out.

        Where the speed is known, what cannot be done before its deadline in a batch like those that can be made now
        is past it.

        Parameters
        ----------
        now
            Seconds on the clock of `Pending.arrived`.
        """
        speed = self.tokens_per_second
        expired = self.expire(now + (_MARGIN * self._batch_tokens() / speed if speed else 0.0))
        while self._turns and self._turns[0][2] not in self:
            heapq.heappop(self._turns)
        if not self._turns:
            return Taken([], expired)
        (tag, _, leader), clients = self._turns[0], self._tags.clients
        self._remove(leader)
        batch = self._grow(leader, tag + _HORIZON * self.most_tokens / clients)
        self._tags.served(sum(p.tokens for p in batch), clients)
        return Taken(batch, expired)

    def _batch_tokens(self) -> float:
        """Return about how large the next batch is."""
        if not self._waiting:
            return 0.0
        limits = self.limits
        return min(self.tokens, self.most_tokens, limits.max_requests * self.tokens / len(self._waiting))

    def _grow(self, leader: Pending, last: float) -> list[Pending]:
        """Return the leader with what fits to it, of those whose tag is not after `last`; all of it is taken out."""
        limits, most, room = self.limits, self.most_tokens, _Room(self.limits, self.most_tokens, leader)
        batch = [leader]
        group = self._groups.get(leader.key)
        if group is None:
            return batch
        no_longer = no_shorter = False
        for length in group.outwards(leader.length):
            filled = len(batch) == limits.max_requests or room.tokens >= most
            if filled or (no_longer and no_shorter):
                break
            longer = length > leader.length
            if no_longer if longer else no_shorter:
                continue
            mates, misfits = self._fitting(group.heaps[length], room, limits.max_requests - len(batch), last)
            batch += mates
            if misfits and length != leader.length:  # what is further away fits even less
                no_longer, no_shorter = no_longer or longer, no_shorter or not longer
        return batch

    def _fitting(self, heap: list[_Item], room: "_Room", most: int, last: float) -> tuple[list[Pending], bool]:
        """Take what fits from one length, in turn; also tell whether something did not fit."""
        mates: list[Pending] = []
        misfits: list[_Item] = []
        while heap and heap[0][0] <= last and len(mates) < most and len(misfits) < _MOST_MISFITS:
            item = heapq.heappop(heap)
            mate = item[2]
            if mate not in self:
                continue
            if room.take(mate):
                mates.append(mate)
                self._remove(mate)
            else:
                misfits.append(item)
        for item in misfits:
            heapq.heappush(heap, item)
        return mates, bool(misfits)

    def _remove(self, pending: Pending) -> None:
        del self._waiting[pending.id]
        self.tokens -= pending.tokens
        self._tags.left(pending.client, pending.tokens)
        group = self._groups[pending.key]
        group.left(pending.length)
        if not group.counts:
            del self._groups[pending.key]
        elif pending.length in group.heaps:
            self._clean(group.heaps[pending.length], group.counts[pending.length])
        self._clean(self._turns, len(self._waiting))
        self._clean(self._deadlines, len(self._waiting))

    def _clean(self, heap: list[_Item], needed: int) -> None:
        """Drop what no longer waits, as seldom as keeps a heap within about twice what is needed."""
        if len(heap) > 2 * needed + _SPARE:
            heap[:] = [item for item in heap if item[2] in self]
            heapq.heapify(heap)


class _Room:
    """What a batch holds, while it is filled."""

    __slots__ = ("examples", "limits", "longest", "most", "real")

    def __init__(self, limits: Limits, most: int, leader: Pending) -> None:
        self.limits, self.most = limits, most
        self.examples, self.longest, self.real = leader.batch, leader.length, leader.tokens

    @property
    def tokens(self) -> int:
        """With padding."""
        return self.examples * self.longest

    def take(self, mate: Pending) -> bool:
        """Add a request if the batch keeps to its limits with it."""
        limits = self.limits
        longest = max(self.longest, mate.length)
        tokens = (self.examples + mate.batch) * longest
        real = self.real + mate.tokens
        if tokens > self.most or tokens - real > limits.max_padding * tokens:
            return False
        self.examples, self.longest, self.real = self.examples + mate.batch, longest, real
        return True
