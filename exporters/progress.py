"""Telling a person how far long work is: a bar on a terminal, plain lines elsewhere, nothing for programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Lines", "Progress", "Silent", "progress_on"]


class Progress(Protocol):
    """Where long work says what it does."""

    def step(self, text: str, total: int | None = None) -> None:
        """Begin a step of `total` units; None where the number is not known."""

    def advance(self, units: int = 1) -> None:
        """Say that units of the step are done."""


class Silent:
    """Says nothing."""

    def step(self, text: str, total: int | None = None) -> None:
        """Say nothing."""

    def advance(self, units: int = 1) -> None:
        """Say nothing."""


class Lines:
    """One plain line a step.

    Parameters
    ----------
    stream
        Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def step(self, text: str, total: int | None = None) -> None:
        """Write the step's name."""
        of = "" if total is None else f" ({total})"
        self._stream.write(f"{text}{of}\n")
        self._stream.flush()

    def advance(self, units: int = 1) -> None:
        """Say nothing: a line for every unit would bury the rest."""


class _Bar:
    def __init__(self, bar: "RichProgress") -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def step(self, text: str, total: int | None = None) -> None:
        # A new one each time: rich takes a total of None for "as before".
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(text, total=total)

    def advance(self, units: int = 1) -> None:
        self._bar.advance(self._task, units)


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Progress]:
    """Give the kind of progress that suits `stream`."""
    if not stream.isatty():
        yield Lines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with RichProgress(*columns, TimeElapsedColumn(), console=Console(file=stream), transient=True) as bar:
        yield _Bar(bar)
