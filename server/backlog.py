"""Calls that have arrived and that nobody has read yet: how many may be, and how fast they are taken in under overload.

To take in a call, even only to refuse it in words, costs Python some hundred microseconds, of which it has one core.
Where requests are small that is most of what a request costs: a server that refused two of three calls in words would
do little else. gRPC's core, which is C++, cuts calls off for a tenth of that. So

- the calls of each method that wait to be taken in are bounded: from three quarters of the bound on, the core cuts new
  ones off at random, ever more of them, and at the bound all (random early detection). Such a call ends with
  CANCELLED, without words. Inference and the health service have bounds of their own (`accepting.py`), so that the
  one's calls do not cut the other's off;
- when calls are refused for load, `Intake` has the server take in the next ones a little later. So no more than so many
  are refused in words in a second, the others by the core, and the time is the admitted requests'.

The second is left where some client is refused while others are not: those have to reach the queue, which is fair.
"""

import asyncio
import json
import time
from collections.abc import Coroutine, Generator
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # as grpcio-channelz, which has not each of gRPC's releases

from lazyneuron.server.config import QueueConfig

__all__ = ["Arrivals", "Intake", "backlog_options"]

_CALLS_PER_SECOND = 250
"""What is taken in at least, while calls are refused: the bound is a number, and what counts is how long it takes."""
_LEAST, _MOST = 128, 512
"""What may be unread in any case: two batches' requests at once are no overload. And the most: callers with a
deadline of a second or two are to be read in time, whatever the bound of time; yet a stall of a quarter of a second at
full load, as any busy machine has, must cut nobody off."""
_REFUSED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
_REFUSALS_PER_SECOND = 500
"""In words, once more is asked for than is admitted: some of a core, and the most that one should take."""
_LONGEST_PAUSE = 0.05
_WINDOW_SECONDS = 0.5
_Work = Coroutine[Any, Any, Any] | Generator[Any, None, Any]
_TAKING = ("_request_registered_call", "_request_call")
"""gRPC's coroutines that take in one call, of a method and of any other. Were they called otherwise, they would not
wait, and nothing else would be lost."""


def backlog_options(queue: QueueConfig) -> list[tuple[str, int]]:
    """Return gRPC's options that bound what is unread, so that it is taken in within the queue's bound of time.

    Parameters
    ----------
    queue
        The bounds of what may wait for the engine; no more may be unread than may wait.
    """
    most = max(_LEAST, min(_MOST, queue.max_requests, round(queue.max_wait_seconds * _CALLS_PER_SECOND)))
    return [("grpc.server.max_pending_requests", most * 3 // 4), ("grpc.server.max_pending_requests_hard_limit", most)]


class Arrivals:
    """Counts the calls that gRPC's core receives for one server, read or not.

    Channelz, gRPC's own statistics (gRFC A14), has the figure. Made just before the server, and `found` just after.
    """

    def __init__(self) -> None:
        self._others = set(_calls_started())
        self._server = 0

    def found(self) -> bool:
        """Remember which server is new; return whether there is one whose calls are counted."""
        new = set(_calls_started()) - self._others
        self._server = max(new, default=0)
        return bool(new)

    def calls(self) -> int:
        """Return how many calls there have been."""
        return _calls_started().get(self._server, 0)


class Intake:
    """Holds the taking in of calls back while calls are refused."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opens = 0.0
        self._window = 0.0
        self._answered: tuple[set[str], set[str]] = (set(), set())
        self._refused: tuple[set[str], set[str]] = (set(), set())

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stand before gRPC's own tasks on this loop, whenever they are to be held back."""
        self._loop = loop

    def ended(self, client: str, code: grpc.StatusCode) -> None:
        """Note how a call ended: a refusal for load puts the next one off, if every client meets such.

        Parameters
        ----------
        client
            Who called.
        code
            The call's status.
        """
        if code is grpc.StatusCode.OK:
            self._answered[0].add(client)
        elif code in _REFUSED:
            now = time.monotonic()
            self._refused[0].add(client)
            if now > self._window:  # what was half a second ago or more is forgotten
                self._window = now + _WINDOW_SECONDS
                self._answered, self._refused = (set(), self._answered[0]), (set(), self._refused[0])
                self._refused[0].add(client)
            if self._spares_nobody():
                self._opens = min(max(self._opens, now) + 1 / _REFUSALS_PER_SECOND, now + _LONGEST_PAUSE)
                if self._loop is not None:
                    self._loop.set_task_factory(self._make)

    def pause(self) -> float:
        """Return the seconds for which no call shall be taken in."""
        return max(0.0, self._opens - time.monotonic())

    def _spares_nobody(self) -> bool:
        refused = self._refused[0] | self._refused[1]
        return self._answered[0] <= refused and self._answered[1] <= refused

    def _make(self, loop: asyncio.AbstractEventLoop, work: _Work, /, **options: Any) -> "asyncio.Task[Any]":  # noqa: ANN401
        if pause := self.pause():
            if getattr(work, "__name__", "") in _TAKING:
                work = _later(pause, work)
        else:
            loop.set_task_factory(None)  # every task of every call would come through here
        return asyncio.Task(work, loop=loop, **options)


def _calls_started() -> dict[int, int]:
    """Return the calls of each server of this process, by channelz's number for it."""
    servers = json.loads(cygrpc.channelz_get_servers(0)).get("server", ())
    return {int(one["ref"]["serverId"]): int(one["data"].get("callsStarted", 0)) for one in servers}


async def _later(pause: float, work: Any) -> Any:  # noqa: ANN401
    try:
        await asyncio.sleep(pause)
    except asyncio.CancelledError:
        work.close()
        raise
    return await work
