"""Files that are read again while the server runs: when they change, and when it is told to (SIGHUP)."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.server.metrics import Metrics

__all__ = ["Reloadable", "Reloader"]

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass
class Reloadable:
    """Something that comes from files.

    Attributes
    ----------
    what
        Its name in the log and in the metric.
    files
        What to look at; none: it is read again only when told to.
    reload
        Reads them and returns whether anything is new; raises ConfigurationError and keeps what it has.
    """

    what: str
    files: Sequence[Path]
    reload: Callable[[], bool]
    stamp: _Stamp = field(default=())


class Reloader:
    """Looks at files now and then.

    Parameters
    ----------
    metrics
        Where readings are counted.
    seconds
        Between looks.
    """

    def __init__(self, metrics: Metrics, seconds: float) -> None:
        self._metrics = metrics
        self._seconds = seconds
        self._watched: list[Reloadable] = []

    def add(self, what: str, files: Sequence[Path], reload: Callable[[], bool]) -> None:
        """Watch files that have just been read."""
        self._watched.append(Reloadable(what, files, reload, _stamp(files)))

    def reload_all(self) -> None:
        """Read everything again, changed or not."""
        for one in self._watched:
            one.stamp = _stamp(one.files)
            self._reload(one)

    def look(self) -> None:
        """Read again what has changed since the last look."""
        for one in self._watched:
            stamp = _stamp(one.files)
            if stamp != one.stamp:
                one.stamp = stamp
                self._reload(one)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            await asyncio.to_thread(self.look)

    def _reload(self, one: Reloadable) -> None:
        try:
            if one.reload():
                self._metrics.reload(one.what, used=True)
                _log.info("%s: changed, and in use from now on", one.what)
        except ConfigurationError as error:
            self._metrics.reload(one.what, used=False)
            _log.error("%s: the new files are not used, what was there before still is: %s", one.what, error)
        except Exception:  # noqa: BLE001  whatever it is, what was there before still works
            self._metrics.reload(one.what, used=False)
            _log.exception("%s: the new files could not be read", one.what)


def _stamp(files: Sequence[Path]) -> _Stamp:
    """Return what tells a file from its successor: a replaced one has another inode, whatever its dates say."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            stamps.append(None)
    return tuple(stamps)
