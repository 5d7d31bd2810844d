"""Who may wait: a queue bounded by tokens, by requests and by time, and what one client may have of it."""

import math
from dataclasses import dataclass

from lazyneuron.engine.errors import DeadlineExceededError, InputError, QueueFullError
from lazyneuron.server.config import ClientsConfig, QueueConfig

__all__ = ["Admission", "Outlook"]

_SHORTEST_RETRY, _LONGEST_RETRY = 0.01, 10.0
_SURE = 0.85
"""Of the time to its deadline, what a request is admitted for: the speed varies, and what ends late was for nothing."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request would meet in the queue.

    Attributes
    ----------
    tokens_ahead
        What would run before it; its client's fair share of the engine counts.
    tokens_per_second
        How fast the model works off a backlog; 0 while that is not known.
    batch_tokens
        The most tokens of a batch: so much may always wait, however slow the model is.
    seconds_left
        Until its deadline; None: it has none.
    seconds_taken
        How long the engine still has to do with what has left the queue.
    """

    tokens_ahead: int
    tokens_per_second: float
    batch_tokens: int = 0
    seconds_left: float | None = None
    seconds_taken: float = 0.0

    @property
    def seconds_ahead(self) -> float:
        """The estimated wait."""
        return self.tokens_ahead / self.tokens_per_second if self.tokens_per_second > 0 else 0.0


@dataclass(slots=True)
class _Client:
    in_flight: int = 0
    requests: int = 0
    tokens: int = 0


class Admission:
    """The room in one model's queue.

    Parameters
    ----------
    queue
        The bounds of what waits.
    clients
        The bounds of what one client has.

    Attributes
    ----------
    requests, tokens
        What waits now.
    """

    def __init__(self, queue: QueueConfig, clients: ClientsConfig | None = None) -> None:
        self.queue = queue
        self.clients = clients or ClientsConfig()
        self.requests = 0
        self.tokens = 0
        self._clients: dict[str, _Client] = {}

    @property
    def pressure(self) -> float:
        """The share of the room that is taken, 0 to 1."""
        return min(1.0, max(self.tokens / self.queue.max_tokens, self.requests / self.queue.max_requests))

    def pressure_at(self, tokens_per_second: float, batch_tokens: int) -> float:
        """Return the pressure, with what the bound of time allows at this speed as the room: one batch at least."""
        return min(1.0, max(self.pressure, self.tokens / self.room_at(tokens_per_second, batch_tokens)))

    def room_at(self, tokens_per_second: float, batch_tokens: int) -> float:
        """Return how many tokens may wait, by size and, at this speed (0: not known), by time: one batch at least."""
        if tokens_per_second <= 0:
            return self.queue.max_tokens
        return min(self.queue.max_tokens, max(tokens_per_second * self.queue.max_wait_seconds, batch_tokens))

    def admit(self, tokens: int, outlook: Outlook, client: str = "") -> None:
        """Take room for a request.

        Parameters
        ----------
        tokens
            The request's size.
        outlook
            What it would meet.
        client
            Who asks.

        Raises
        ------
        InputError
            If the request would not fit an empty queue.
        QueueFullError
            If there is no room now, the wait would be too long, or its client has enough.
        DeadlineExceededError
            If its deadline has passed, or will before its turn.
        """
        self.check(tokens, outlook, client)
        entry = self._clients.setdefault(client, _Client())
        entry.in_flight += 1
        entry.requests += 1
        entry.tokens += tokens
        self.requests += 1
        self.tokens += tokens

    def check(self, tokens: int, outlook: Outlook, client: str = "") -> None:
        """Raise what `admit` would, and take nothing."""
        self._check_room(tokens, outlook)
        self._check_client(tokens, outlook, client)
        self._check_wait(tokens, outlook)

    def release(self, tokens: int, client: str = "", *, requests: int = 1) -> None:
        """Give room back: what had it runs, or nobody waits for it any more.

        Parameters
        ----------
        requests
            0 for a part of a request of which more waits.
        """
        entry = self._clients[client]
        entry.requests -= requests
        entry.tokens -= tokens
        self.requests -= requests
        self.tokens -= tokens

    def answered(self, client: str = "") -> None:
        """Note that an admitted request is no longer in flight."""
        entry = self._clients[client]
        entry.in_flight -= 1
        if not entry.in_flight:
            del self._clients[client]

    def _check_room(self, tokens: int, outlook: Outlook) -> None:
        queue = self.queue
        if tokens > queue.max_tokens:
            expected = f"at most {queue.max_tokens} (the server's queue.max_tokens); send it in parts"
            raise InputError("inputs", got=f"{tokens} tokens", expected=expected, refusal="too_large")
        if self.requests >= queue.max_requests or self.tokens + tokens > queue.max_tokens:
            rate = outlook.tokens_per_second
            raise _full(
                f"the queue is full: {self.requests} of {queue.max_requests} requests and {self.tokens} of "
                f"{queue.max_tokens} tokens wait, and this request has {tokens}",
                self.tokens / rate if rate > 0 else _SHORTEST_RETRY,
            )

    def _check_client(self, tokens: int, outlook: Outlook, client: str) -> None:
        """Refuse what one client has too much of. Its only request may be of any size."""
        entry = self._clients.get(client)
        if entry is None:
            return
        retry = outlook.seconds_ahead
        most = self.clients.max_in_flight
        if most is not None and entry.in_flight >= most:
            raise _full(
                f"this client has {entry.in_flight} of {most} requests in flight (clients.max_in_flight)",
                retry,
                "client_limit",
            )
        share = self.clients.queue_share
        requests, room = math.ceil(self.queue.max_requests * share), math.ceil(self.queue.max_tokens * share)
        if entry.requests and (entry.requests >= requests or entry.tokens + tokens > room):
            raise _full(
                f"this client's share of the queue is full (clients.queue_share {share:g}): {entry.requests} of "
                f"{requests} requests and {entry.tokens} of {room} tokens wait, and this request has {tokens}",
                retry,
                "client_limit",
            )

    def _check_wait(self, tokens: int, outlook: Outlook) -> None:
        left, wait, most = outlook.seconds_left, outlook.seconds_ahead, self.queue.max_wait_seconds
        if left is not None and left <= 0:
            raise DeadlineExceededError("the deadline passed before the request was queued; nothing was computed")
        working = 0.0 if left is None else _SURE * left - outlook.seconds_taken
        if left is not None and wait and outlook.tokens_per_second * working < outlook.tokens_ahead + tokens:
            raise DeadlineExceededError(
                f"the deadline cannot be met: about {wait:.2f} s of work ({outlook.tokens_ahead} tokens) is ahead of "
                f"the request's {tokens} tokens, and {left:.2f} s are left; nothing was computed"
            )
        if wait > most and outlook.tokens_ahead + tokens > outlook.batch_tokens:
            raise _full(
                f"the queue is full: about {wait:.2f} s of work ({outlook.tokens_ahead} tokens) is ahead of this "
                f"request; expected at most {most:g} s (queue.max_wait_seconds)",
                wait - most,
                "queue_wait",
            )


def _full(message: str, retry_after: float, refusal: str = "queue_full") -> QueueFullError:
    retry_after = min(max(retry_after, _SHORTEST_RETRY), _LONGEST_RETRY)
    return QueueFullError(f"{message}; try again in {retry_after:.2f} s", retry_after=retry_after, refusal=refusal)
