"""One sampler for all who watch: it reads the metrics now and then, and keeps what there is to say about them.

Nobody waits for a slow reader: each takes the newest state when it is ready for one, whatever it has missed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import cached_property

import orjson

from lazyneuron.server.metrics import Metrics
from lazyneuron.server.page.readings import Reading, read
from lazyneuron.server.page.view import Phase, View, draw
from lazyneuron.server.page.window import Window
from lazyneuron.server.serving import Serving

__all__ = ["Live", "TooManyWatchersError"]

_log = logging.getLogger(__name__)

_WATCHED, _UNWATCHED = 1.0, 5.0
"""Seconds between readings, while somebody watches and while nobody does."""
_SHARE, _LONGEST_PAUSE = 100, 30.0
"""Reading takes at most one part in so many of a core, however many models there are; unless it paused so long."""
_WHOEVER_ASKS = 10
"""And at most one in so many, however often the page is loaded."""
_BEAT = 10.0
"""Seconds after which a watcher hears something, so that whoever is between does not take the stream for dead."""
_PATIENCE = 1.0
"""Seconds that a watcher has to read the end of its stream when the server stops; then its connection is cut."""
_LONGEST = 120.0
"""Seconds that a stream lasts; the page asks for the next, and is asked for its token again."""


class TooManyWatchersError(Exception):
    """As many as may already watch."""


@dataclass(frozen=True)
class _State:
    """What there was to say at one moment, and in which words a stream says it."""

    number: int
    view: View
    before: "View | None"

    @cached_property
    def whole(self) -> bytes:
        """The event for whoever has heard nothing yet, or missed some."""
        return _event({"structure": self.view.structure, "values": self.view.values, "bars": self.view.bars})

    @cached_property
    def changes(self) -> bytes:
        """The event for whoever has heard all before this; empty where nothing changed."""
        if self.before is None or self.before.structure != self.view.structure:
            return self.whole
        values = {k: v for k, v in self.view.values.items() if self.before.values.get(k) != v}
        bars = {k: v for k, v in self.view.bars.items() if self.before.bars.get(k) != v}
        return _event({"values": values, "bars": bars}) if values or bars else b""


@dataclass(frozen=True, eq=False)
class _Watcher:
    """Somebody who watches."""

    abort: Callable[[], None]


class Live:
    """The state that the page shows, kept up to date from when `run` is started until `close`.

    Parameters
    ----------
    metrics
        What is read.
    serving
        Gives the models; None while they are being loaded.
    most_watchers
        How many may watch at the same time.
    """

    def __init__(self, metrics: Metrics, serving: Callable[[], Serving | None], most_watchers: int) -> None:
        self._metrics = metrics
        self._serving = serving
        self._most_watchers = most_watchers
        self._window = Window(read(metrics.registry, time.monotonic()))
        self._state = _State(0, self._draw(), None)
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reading = asyncio.Lock()
        self._cost = 0.0  # seconds of a core that the last reading took
        self._watchers: set[_Watcher] = set()
        self._closed = False

    @property
    def view(self) -> View:
        """What there was to say when `refresh` was last called, or a watcher was last told."""
        return self._state.view

    async def run(self) -> None:
        """Read the metrics, again and again."""
        while not self._closed:
            drawing = 0.0
            try:
                await self._read()
                if self._watchers:
                    drawing = self._tell()
            except Exception:  # noqa: BLE001  the next reading may go well
                _log.exception("the page's numbers cannot be read")
            cost = min(_SHARE * (self._cost + drawing), _LONGEST_PAUSE)
            pause = max(_WATCHED if self._watchers else _UNWATCHED, cost)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            self._hurry.clear()

    async def refresh(self) -> None:
        """Bring `view` up to date."""
        await self._read()
        self._tell()

    async def watch(self, abort: Callable[[], None] = lambda: None) -> AsyncGenerator[bytes, None]:
        """Give a stream's server-sent events; it ends by itself after a while.

        Parameters
        ----------
        abort
            Cuts the watcher's connection.

        Raises
        ------
        TooManyWatchersError
            At the first event, if as many as may already watch.
        """
        if len(self._watchers) >= self._most_watchers:
            raise TooManyWatchersError
        if not self._watchers:
            self._tell()  # what was told last may be as old as the server
        watcher = _Watcher(abort)
        self._watchers.add(watcher)
        ends = time.monotonic() + _LONGEST
        heard = -1
        try:
            self._hurry.set()
            yield b"retry: 1000\n\n"
            while not self._closed and time.monotonic() < ends:
                state, changed = self._state, self._changed
                if state.number != heard:
                    event = state.changes if state.number == heard + 1 else state.whole
                    heard = state.number
                    if event:
                        yield event
                        continue  # while it was written, there may have been news
                try:
                    await asyncio.wait_for(changed.wait(), _BEAT)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End all streams; cut off soon after who does not read that."""
        self._closed = True
        self._changed.set()
        self._hurry.set()
        if self._watchers:
            asyncio.get_running_loop().call_later(_PATIENCE, self._abort)

    def _abort(self) -> None:
        for watcher in self._watchers:
            watcher.abort()

    async def _read(self) -> None:
        """Read the metrics, if that was not done just now."""
        async with self._reading:
            last = self._window.latest
            if time.monotonic() - last.time < max(_WATCHED / 2, _WHOEVER_ASKS * self._cost):
                return

            def timed() -> tuple[Reading, float]:
                begun = time.thread_time()
                return read(self._metrics.registry, time.monotonic(), last.columns), time.thread_time() - begun

            # In a thread: many models have many series, and requests shall not wait for them.
            reading, self._cost = await asyncio.to_thread(timed)
            self._window.add(reading)

    def _tell(self) -> float:
        """Put what there is to say in words; return the seconds that it took."""
        begun = time.thread_time()
        self._state = _State(self._state.number + 1, self._draw(), self._state.view)
        self._changed.set()
        self._changed = asyncio.Event()
        return time.thread_time() - begun

    def _draw(self) -> View:
        serving = self._serving()
        phase: Phase = "loading" if serving is None else "ready" if serving.ready else "stopping"
        if serving is None:
            return draw(phase, (), {}, self._window)
        served = [one.model.manifest for one in serving.repository.served()]
        loaded = {(m.name, str(m.version)): m for m in served}
        return draw(phase, serving.index(), loaded, self._window, serving.repository.troubles())


def _event(document: object) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
