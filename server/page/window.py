"""The readings of the last minutes: each of the last seconds', and a few a minute before. Pure, without a clock."""

from collections import deque

from lazyneuron.server.page.readings import Change, Reading

__all__ = ["SPAN", "Window"]

SPAN = 300.0
"""Seconds: "the last five minutes"."""
_RECENT = 10.0
_STEP = 10.0
_SUMMED = (
    "mlp_flops_dense_total",
    "mlp_flops_executed_total",
    "mlp_estimated_dense_seconds_total",
    "mlp_estimated_executed_seconds_total",
)


class Window:
    """The readings that are kept: each of the last ten seconds', and one every ten seconds before that.

    Parameters
    ----------
    first
        The first reading, of the server's start.

    Attributes
    ----------
    ever
        What FLOPs and estimated seconds have added up to since then: a version's counters go some time after it does.
    """

    def __init__(self, first: Reading) -> None:
        self.first = first
        self.ever = dict.fromkeys(_SUMMED, 0.0)
        self._old: deque[Reading] = deque([first])
        self._recent: deque[Reading] = deque([first])

    @property
    def latest(self) -> Reading:
        """The last reading."""
        return self._recent[-1]

    def add(self, reading: Reading) -> None:
        """Take a reading that is later than all before; let those go that nothing needs."""
        grown = reading.since(self.latest)
        self.ever = {name: total + grown.total(name) for name, total in self.ever.items()}
        self._recent.append(reading)
        while len(self._recent) > 2 and self._recent[1].time <= reading.time - _RECENT:
            self._recent.popleft()
        if reading.time - self._old[-1].time >= _STEP:
            self._old.append(reading)
        # The newest that is old enough stays: the span begins there.
        while len(self._old) > 1 and self._old[1].time <= reading.time - SPAN:
            self._old.popleft()

    def span(self) -> Change:
        """Return what happened in the last five minutes (at most a step more), or since the start if that was later."""
        return self.latest.since(self._old[0])

    def moment(self) -> Change:
        """Return what happened in about the last ten seconds."""
        return self.latest.since(self._recent[0])

    @property
    def young(self) -> bool:
        """Whether the server has not run for five minutes yet."""
        return self.latest.time - self.first.time < SPAN
