"""Who comes next, where several share one thing: clients of a model, and models of a server. Pure.

Both are start-time fair queueing (Goyal, Vin, Cheng: "Start-Time Fair Queueing", SIGCOMM 1996): what each has used is
kept as a virtual time, the least comes first, and who has been away is brought up to the others, so that nobody saves
up a claim.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

__all__ = ["ClientTags", "Turns"]

_SPARE = 64
_ROUNDING = 1e-9


class ClientTags:
    """Gives each request a tag; the least tag's turn comes first, and clients get equal shares of the tokens."""

    def __init__(self) -> None:
        self._now = 0.0  # tokens that each client with something waiting has been given
        self._ends: dict[str, float] = {}
        self._requests: dict[str, int] = {}
        self._tokens: dict[str, int] = {}

    @property
    def clients(self) -> int:
        """Clients that have something waiting."""
        return len(self._requests)

    def waiting_tokens(self, client: str) -> int:
        """Return the size of what waits for a client."""
        return self._tokens.get(client, 0)

    def enter(self, client: str, tokens: int) -> float:
        """Return the tag of a request that begins to wait."""
        start = max(self._now, self._ends.get(client, 0.0))
        self._ends[client] = start + tokens
        self._requests[client] = self._requests.get(client, 0) + 1
        self._tokens[client] = self._tokens.get(client, 0) + tokens
        return start

    def left(self, client: str, tokens: int) -> None:
        """Note that a request no longer waits."""
        self._tokens[client] -= tokens
        self._requests[client] -= 1
        if not self._requests[client]:
            del self._requests[client], self._tokens[client]

    def gave_up(self, client: str) -> None:
        """Note that the request that left was not served: it is not held against a client that has no other."""
        if client not in self._requests:
            self._ends[client] = min(self._ends[client], self._now)
        self._forget()

    def served(self, tokens: int, clients: int) -> None:
        """Note that requests of this size were taken to run, when so many clients had something waiting."""
        self._now += tokens / clients
        self._forget()

    def _forget(self) -> None:
        """Keep no record of clients that are owed nothing and owe nothing."""
        if not self._requests:
            self._ends.clear()
            self._now = 0.0
        elif len(self._ends) > 2 * len(self._requests) + _SPARE:
            self._ends = {c: end for c, end in self._ends.items() if end > self._now or c in self._requests}


@dataclass(slots=True)
class _Account:
    share: float
    used: float = 0.0
    running: int = 0


class Turns:
    """Whose turn it is to run, among those that share a machine's cores: by the time that each has used.

    A run takes a share of the machine, so that together no more runs than one of them would run by itself. Whoever's
    turn it is and does not fit yet is waited for: it is not passed by the small ones for ever.
    """

    def __init__(self) -> None:
        self._accounts: dict[Hashable, _Account] = {}
        self._busy = 0.0
        self._now = 0.0

    def join(self, who: Hashable, share: float) -> None:
        """Let one more take part; `share`, 0 < share <= 1, is what one of its runs takes of the machine."""
        self._accounts[who] = _Account(share, self._now)

    def leave(self, who: Hashable) -> None:
        """Forget one that has nothing running."""
        del self._accounts[who]

    def arrived(self, who: Hashable) -> None:
        """Note that one that had nothing to run has something again: it has no claim from the time before."""
        account = self._accounts[who]
        if not account.running:
            account.used = max(account.used, self._now)

    def first(self, ready: Iterable[Hashable]) -> Hashable | None:
        """Return whose turn it is of those that have something to run, whether it fits or not."""
        return min(ready, key=lambda who: self._accounts[who].used, default=None)

    def fits(self, who: Hashable) -> bool:
        """Return whether one more of its runs fits beside what runs."""
        return self._busy <= _ROUNDING or self._busy + self._accounts[who].share <= 1.0 + _ROUNDING

    def begin(self, who: Hashable, expected: float) -> None:
        """Note the start of a run that is expected to take so many seconds; it is charged at once."""
        account = self._accounts[who]
        self._now = max(self._now, account.used)
        account.used += expected * account.share
        account.running += 1
        self._busy += account.share

    def end(self, who: Hashable, expected: float, seconds: float) -> None:
        """Note the end of a run: what it took is charged instead of what it was expected to take."""
        account = self._accounts[who]
        account.used += (seconds - expected) * account.share
        account.running -= 1
        self._busy = max(0.0, self._busy - account.share)
