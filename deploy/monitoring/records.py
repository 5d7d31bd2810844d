"""What Prometheus computes ahead for the alerts, and for the panels that show what the alerts watch."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from deploy.monitoring import queries
from deploy.monitoring.queries import Scope

__all__ = ["WINDOWS", "Clock", "Objectives", "Record", "records"]

_DURATION = re.compile(r"(\d+)([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}

DENSITY = "model_version_block:lazyneuron_mlp_density:ratio_rate5m"
EXPORTED_DENSITY = "model_version_block:lazyneuron_exported_density:max"
DRIFT = "model_version_block:lazyneuron_mlp_density_drift:ratio_rate5m"
ROWS = "model_version_block:lazyneuron_mlp_rows:increase5m"
LOWERED = "model_version:lazyneuron_budget_lowered_requests:increase5m"
FLOPS_SAVED = "model_version:lazyneuron_mlp_flops_saved:ratio_rate5m"
TIME_SAVED = "model_version:lazyneuron_mlp_time_saved:ratio_rate5m"
QUEUE_FILL = "model_version:lazyneuron_queue_fill:max"
NO_ROOM = "model_version:lazyneuron_requests_refused_for_room:ratio_rate5m"

WINDOWS = ("5m", "30m", "1h", "6h")
"""Over which error budgets are watched."""


def errors(window: str) -> str:
    """Return the record of the share of requests that were not served."""
    return f"model_version:lazyneuron_request_errors:ratio_rate{window}"


def slow(window: str) -> str:
    """Return the record of the share of requests that took longer than the objective."""
    return f"model_version:lazyneuron_request_slow:ratio_rate{window}"


@dataclass(frozen=True)
class Objectives:
    """What is promised, and from where on somebody is told.

    Attributes
    ----------
    latency_seconds
        What a request may take; the bound of a bucket of `lazyneuron_request_duration_seconds`.
    latency
        The share of the requests that has to be as quick: with 0.99 that time is an objective for p99.
    success
        The share of the requests that has to be served.
    drift
        By how much a block's density may be above what calibration saw, or below it, as a ratio.
    drift_least
        A difference in density (a share of the neurons) below which a ratio says nothing.
    drift_rows
        Rows in five minutes without which a density says nothing.
    saved
        The share of the MLP blocks' FLOPs that has to be saved.
    queue_fill
        The share of the queue's tokens that may be taken for long; below what one client may have of it
        (`clients.queue_share`, 0.8), or a server with one client would never be seen to be full.
    refused
        The share of the requests that a full queue may refuse.
    """

    latency_seconds: float = 0.5
    latency: float = 0.99
    success: float = 0.999
    drift: float = 1.5
    drift_least: float = 0.01
    drift_rows: int = 1000
    saved: float = 0.05
    queue_fill: float = 0.7
    refused: float = 0.01

    @property
    def latency_budget(self) -> float:
        """The share of the requests that may be slow."""
        return 1 - self.latency

    @property
    def error_budget(self) -> float:
        """The share of the requests that may fail."""
        return 1 - self.success


@dataclass(frozen=True)
class Clock:
    """How long the rules' minutes are: a test does not wait for an hour.

    Attributes
    ----------
    scale
        What every duration in the rules is multiplied by.
    """

    scale: float = 1.0

    def __call__(self, duration: str) -> str:
        """Return a duration such as `10m`, scaled.

        Raises
        ------
        ValueError
            If it is not a whole number of seconds, minutes or hours.
        """
        found = _DURATION.fullmatch(duration)
        if found is None:
            raise ValueError(f"a duration: got {duration!r}; expected a whole number and s, m or h, such as 10m")
        if self.scale == 1:
            return duration
        return f"{round(int(found[1]) * _SECONDS[found[2]] * self.scale * 1000)}ms"


class Record(NamedTuple):
    """A recording rule."""

    name: str
    expression: str


def records(objectives: Objectives, clock: Clock) -> list[Record]:
    """Return the recording rules, each after those that it reads."""
    five = Scope(clock("5m"))
    budgets = [(window, Scope(clock(window))) for window in WINDOWS]
    return [
        Record(DENSITY, five.density()),
        Record(EXPORTED_DENSITY, five.exported_density()),
        Record(DRIFT, f"{DENSITY} / {EXPORTED_DENSITY}"),
        Record(ROWS, five.rows()),
        Record(LOWERED, five.increase("budget_lowered_requests_total")),
        Record(FLOPS_SAVED, five.flops_saved()),
        Record(TIME_SAVED, five.time_saved()),
        Record(QUEUE_FILL, five.queue_fill()),
        Record(NO_ROOM, five.refused(queries.NO_ROOM)),
        *[Record(errors(window), scope.errors()) for window, scope in budgets],
        *[Record(slow(window), scope.slow(objectives.latency_seconds)) for window, scope in budgets],
    ]
