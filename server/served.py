"""A loaded version as requests see it: a model, its queue, and who is using them."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from lazyneuron.engine.errors import ModelUnavailableError
from lazyneuron.engine.model import Model
from lazyneuron.server.scheduler import Scheduler

__all__ = ["ServedModel"]

_LATELY = 8


@dataclass
class ServedModel:
    """A model and its queue.

    Attributes
    ----------
    model, scheduler
        The two.
    lately
        The lengths of the symbolic axes that the latest requests had; what the next version is warmed with.
    """

    model: Model
    scheduler: Scheduler
    lately: deque[Mapping[str, int]] = field(default_factory=lambda: deque(maxlen=_LATELY))
    _users: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the version loaded while a request of it is decoded, waits and runs.

        Raises
        ------
        ModelUnavailableError
            If it has been unloaded since it was found.
        """
        if self._closed:
            message = f"{self.model.name} version {self.model.version} has just been unloaded; send the request again"
            raise ModelUnavailableError(message)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    async def drain(self) -> None:
        """Return when no request uses it; new ones may come while that lasts, if they are not sent elsewhere."""
        while self._users:
            self._unused.clear()
            await self._unused.wait()
        await self.scheduler.drain()

    async def retire(self) -> None:
        """Answer what was admitted, then take nothing more and let the worker threads end."""
        await self.drain()
        while self._users:  # somebody came while the last batch ran
            await self.drain()
        self.close()

    def close(self) -> None:
        """Let the worker threads end."""
        self._closed = True
        self.scheduler.close()
