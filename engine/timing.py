"""Timing work in turns, so that a change of the machine's clock meets all of it."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Name = TypeVar("_Name", bound=Hashable)

__all__ = ["Timing", "clock_for", "ratio", "time_in_turns"]


@dataclass(frozen=True, slots=True)
class Timing:
    """A median between its quartiles, of seconds or of ratios."""

    low: float
    median: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Timing":
        """Summarise at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high, len(values))

    @property
    def spread(self) -> float:
        """The interquartile range, as a share of the median."""
        return (self.high - self.low) / self.median


def clock_for(threads: int) -> Callable[[], float]:
    """Return the clock for work of so many threads: on one, its own time, without what other processes take."""
    return time.thread_time if threads == 1 else time.perf_counter


def ratio(base: Sequence[float], other: Sequence[float]) -> Timing:
    """Return how many times as fast as `base` the other was, turn by turn."""
    return Timing.of([b / o for b, o in zip(base, other, strict=True)])


def time_in_turns(
    work: Mapping[_Name, Callable[[], object]],
    *,
    seconds: float,
    least: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[_Name, list[float]]:
    """Time functions in turns, after a warm-up.

    Parameters
    ----------
    work
        What to time, by name.
    seconds
        How long to go on for each.
    least
        The fewest turns.
    clock
        What tells the seconds.

    Returns
    -------
    The seconds of each turn, by name.
    """
    times: dict[_Name, list[float]] = {name: [] for name in work}
    for function in work.values():
        function()
    end = clock() + seconds * len(work)
    turns = 0
    while turns < least or clock() < end:
        for name, function in work.items():
            start = clock()
            function()
            times[name].append(clock() - start)
        turns += 1
    return times
