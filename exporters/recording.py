"""What a graph gives on batches, kept in a file: another graph is compared with it when it is closed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.examples import Array
from lazyneuron.exporters.sessions import Reopened

__all__ = ["MOST_BYTES", "Recording"]

MOST_BYTES = 1 << 30
"""Of outputs so many lie in the file at a time."""


class Recording:
    """A graph's outputs on batches, in a file.

    No more than about `most_bytes` of them are kept: of more, the rest is computed anew whenever it is asked for, part
    by part, with one of the two sessions closed while the other one runs.

    Parameters
    ----------
    session
        The graph; it is closed once it has run.
    names
        Its outputs.
    feeds
        Gives the batches, the same ones each time.
    path
        Where the file will be.
    most_bytes
        After so many a part ends.
    """

    def __init__(
        self,
        session: Reopened,
        names: Sequence[str],
        feeds: Callable[[], Iterator[Feed]],
        path: Path,
        *,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._session, self._names, self._feeds = session, list(names), feeds
        self._path, self._most = path, most_bytes
        self._first: _Part | None = None

    def prepare(self) -> None:
        """Run the graph and close it, if that has not been done; it is best done before another one is opened."""
        if self._first is None:
            self._first = self._record(self._feeds(), 0, self._path)

    def beside(self, other: Reopened) -> Iterator[tuple[Feed, list[Array]]]:
        """Give each batch with the outputs.

        Parameters
        ----------
        other
            Who runs on the batches meanwhile; it is closed while more is recorded.
        """
        ahead: Iterator[Feed] | None = None
        part = self._first
        for number, feed in enumerate(self._feeds()):
            if part is None or number == part.end:
                other.close()
                if part is None:
                    self.prepare()
                    part = self._first
                else:
                    ahead = ahead or islice(self._feeds(), number, None)
                    part = self._record(ahead, number, self._path.with_name(f"{self._path.name}.rest"))
            assert part is not None
            yield feed, part.read(number)

    def _record(self, feeds: Iterator[Feed], begin: int, path: Path) -> "_Part":
        part = _Part(path, begin, [])
        with path.open("wb") as file:
            for feed in feeds:
                part.append(file, self._session.run(self._names, feed))
                if file.tell() >= self._most:
                    break
        self._session.close()
        return part


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where an array lies, and what it is."""

    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """The outputs on consecutive batches, of which the first has the number `begin`."""

    path: Path
    begin: int
    batches: list[list[_Stored]]

    @property
    def end(self) -> int:
        """The number of the batch after the last one."""
        return self.begin + len(self.batches)

    def append(self, file: BinaryIO, values: Sequence[Array]) -> None:
        stored = []
        for value in map(np.asarray, values):
            stored.append(_Stored(file.tell(), value.dtype, value.shape))
            file.write(np.ascontiguousarray(value).data)
        self.batches.append(stored)

    def read(self, number: int) -> list[Array]:
        return [
            np.fromfile(self.path, one.dtype, prod(one.shape), offset=one.offset).reshape(one.shape)
            for one in self.batches[number - self.begin]
        ]
