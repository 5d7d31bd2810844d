"""The metrics' values at one moment, and how they grew between two: what a page can say of the last minutes.

Only the series that the page shows are read, by the names under which Prometheus sees them.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

__all__ = ["Change", "Columns", "Reading", "quantile", "read"]

_PREFIX = "lazyneuron_"
_SUMS = (
    "requests",
    "requests_refused",
    "mlp_flops_dense",
    "mlp_flops_executed",
    "mlp_neurons",
    "mlp_neurons_active",
    "mlp_estimated_dense_seconds",
    "mlp_estimated_executed_seconds",
    "budget_lowered_requests",
)
_GAUGES = ("queue_requests", "queue_tokens", "queue_limit_tokens", "running_batches", "concurrency", "budget")
_HISTOGRAM = "request_duration_seconds"
_FAMILIES = frozenset(_PREFIX + name for name in (*_SUMS, *_GAUGES, _HISTOGRAM))
"""What is read; a family that this server does not have is left out."""

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels, sorted."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Which series the values of a reading belong to; shared by readings that have the same.

    Attributes
    ----------
    keys
        The series, in the values' order.
    """

    keys: tuple[Key, ...]
    place: dict[Key, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", {key: index for index, key in enumerate(self.keys)})

    @cached_property
    def of_model(self) -> Mapping[tuple[str, str, str], list[tuple[dict[str, str], int]]]:
        """By name, model and version: the other labels and the place of each series."""
        groups: dict[tuple[str, str, str], list[tuple[dict[str, str], int]]] = defaultdict(list)
        for (name, pairs), index in self.place.items():
            labels = dict(pairs)
            groups[name, labels.pop("model", ""), labels.pop("version", "")].append((labels, index))
        return groups

    @cached_property
    def of_name(self) -> Mapping[str, list[int]]:
        """By name: the places of all its series."""
        groups: dict[str, list[int]] = defaultdict(list)
        for (name, _), index in self.place.items():
            groups[name].append(index)
        return groups


@dataclass(frozen=True, eq=False)
class Reading:
    """What the metrics said.

    Attributes
    ----------
    time
        On the clock of `time.monotonic`.
    columns, values
        The series and float64 values, one for each.
    """

    time: float
    columns: Columns
    values: NDArray[np.float64]

    def since(self, earlier: "Reading") -> "Change":
        """Return how the counters grew; one that is smaller than before began anew, and grew from 0."""
        if earlier.columns is self.columns:
            before = earlier.values
        else:
            there = earlier.columns.place
            before = np.array(
                [earlier.values[i] if (i := there.get(k)) is not None else 0.0 for k in self.columns.keys]
            )
        grown = np.where(self.values >= before, self.values - before, self.values)
        return Change(self.time - earlier.time, self.columns, grown)

    @property
    def now(self) -> "Change":
        """The values themselves: gauges, and counters since the server started."""
        return Change(0.0, self.columns, self.values)


@dataclass(frozen=True, eq=False)
class Change:
    """Values by series.

    Attributes
    ----------
    seconds
        Over how long they grew.
    """

    seconds: float
    columns: Columns
    values: NDArray[np.float64]

    def total(self, name: str) -> float:
        """Return the sum over all series of a name (without `lazyneuron_`), of models that are gone, too."""
        return float(self.values[self.columns.of_name.get(_PREFIX + name, [])].sum())

    def has(self, name: str, model: str, version: str) -> bool:
        """Tell whether a model has such series."""
        return (_PREFIX + name, model, version) in self.columns.of_model

    def of(self, name: str, model: str, version: str) -> float:
        """Return the sum over a model's series of a name; 0 where there are none."""
        return float(sum(self.values[i] for _, i in self._group(name, model, version)))

    def by(self, label: str, name: str, model: str, version: str) -> dict[str, float]:
        """Return a model's values of a name, by another label."""
        sums: dict[str, float] = defaultdict(float)
        for labels, index in self._group(name, model, version):
            sums[labels.get(label, "")] += float(self.values[index])
        return dict(sums)

    def all_by(self, label: str, name: str) -> dict[str, float]:
        """Return all models' values of a name together, by another label."""
        sums: dict[str, float] = defaultdict(float)
        for index in self.columns.of_name.get(_PREFIX + name, []):
            sums[dict(self.columns.keys[index][1]).get(label, "")] += float(self.values[index])
        return dict(sums)

    def _group(self, name: str, model: str, version: str) -> list[tuple[dict[str, str], int]]:
        return self.columns.of_model.get((_PREFIX + name, model, version), [])


def read(registry: CollectorRegistry, time: float, last: Columns | None = None) -> Reading:
    """Read the series that the page shows.

    Parameters
    ----------
    registry
        The server's metrics.
    time
        Now, on the clock of `time.monotonic`.
    last
        The columns of an earlier reading, which are used again where they are the same.
    """
    keys: list[Key] = []
    values: list[float] = []
    for family in registry.collect():
        for sample in family.samples if family.name in _FAMILIES else ():
            keys.append((sample.name, tuple(sorted(sample.labels.items()))))
            values.append(sample.value)
    same = last is not None and last.keys == tuple(keys)
    return Reading(time, last if same and last is not None else Columns(tuple(keys)), np.array(values, np.float64))


def quantile(share: float, buckets: Mapping[str, float]) -> float:
    """Return a quantile of a histogram, as Prometheus' `histogram_quantile` does.

    Parameters
    ----------
    share
        0 to 1.
    buckets
        Observations at or below each bound, by the bound as the label `le` has it; `+Inf` among them.

    Returns
    -------
    In the bounds' unit; the greatest finite bound where it lies beyond, NaN where nothing was observed.
    """
    ordered = sorted((float(bound), count) for bound, count in buckets.items())
    if not ordered or ordered[-1][1] <= 0:
        return math.nan
    rank = share * ordered[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = (lower, below) if math.isinf(bound) else (bound, count)
    return lower
