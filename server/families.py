"""The metrics that every request or batch changes: name, help, labels, and where in `series.py` their numbers are."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lazyneuron.server.series import Distribution, ModelSeries

__all__ = ["MODEL", "ModelCollector"]

MODEL = ("model", "version")
"""The labels of all of them; further ones come after these."""
_Values = Iterator[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class _Counted:
    """A counter kept in `ModelSeries`: the labels after model and version, and their values."""

    name: str
    help_text: str
    labels: tuple[str, ...]
    values: Callable[[ModelSeries], _Values]
    nameless: bool = False
    """Whether requests that named no loaded model count, too."""

    def family(self, all_series: Mapping[tuple[str, str], ModelSeries]) -> Metric:
        family = CounterMetricFamily(f"lazyneuron_{self.name}", self.help_text, labels=(*MODEL, *self.labels))
        for model, series in all_series.items():
            for labels, value in self.values(series) if model[0] or self.nameless else ():
                family.add_metric((*model, *labels), value)
        return family


@dataclass(frozen=True, slots=True)
class _Observed:
    """A histogram kept in `ModelSeries`."""

    name: str
    help_text: str
    labels: tuple[str, ...]
    values: Callable[[ModelSeries], Iterator[tuple[tuple[str, ...], Distribution]]]

    def family(self, all_series: Mapping[tuple[str, str], ModelSeries]) -> Metric:
        family = HistogramMetricFamily(f"lazyneuron_{self.name}", self.help_text, labels=(*MODEL, *self.labels))
        for model, series in all_series.items():
            for labels, distribution in self.values(series) if model[0] else ():
                family.add_metric((*model, *labels), distribution.buckets(), distribution.sum)
        return family


def _one(name: str, help_text: str, field: str) -> _Counted:
    """Return a counter that is one number of a version: a field."""
    return _Counted(name, help_text, (), lambda series: iter([((), getattr(series, field))]))


def _keyed(name: str, help_text: str, label: str, field: str) -> _Counted:
    return _Counted(
        name,
        help_text,
        (label,),
        lambda s: (((key,), count) for key, count in getattr(s, field).items()),
        nameless=True,
    )


def _of_blocks(name: str, help_text: str, field: str, *, estimate: bool = False) -> _Counted:
    return _Counted(
        f"mlp_{name}",
        help_text,
        ("block",),
        lambda s: (((n,), getattr(b, field)) for n, b in s.blocks.items() if b.estimated or not estimate),
    )


def _spread(name: str, help_text: str, field: str) -> _Observed:
    return _Observed(name, help_text, (), lambda series: iter([((), getattr(series, field))]))


_FAMILIES: tuple[_Counted | _Observed, ...] = (
    _keyed("requests", "Answered inference requests, by gRPC status.", "code", "requests"),
    _keyed(
        "requests_refused", "Inference requests turned away that may have been right, by reason.", "reason", "refused"
    ),
    _spread("request_duration_seconds", "From a request's arrival to its answer.", "request_seconds"),
    _spread("queue_duration_seconds", "What each request waited before its batch began.", "queue_seconds"),
    _spread("inference_duration_seconds", "What each batch took in the engine.", "inference_seconds"),
    _spread("batch_requests", "Requests in a batch.", "batch_requests"),
    _spread("batch_tokens", "Tokens in a batch, padding included.", "batch_tokens"),
    _Counted(
        "tokens",
        "Tokens run: real ones, and padding.",
        ("kind",),
        lambda s: iter([(("real",), s.tokens_real), (("padding",), s.tokens_padding)]),
    ),
    _of_blocks("neurons", "MLP neurons there were: rows × d_ff.", "neurons"),
    _of_blocks("neurons_active", "MLP neurons that were used.", "active"),
    _of_blocks("neurons_candidate", "MLP neurons whose input was computed.", "candidates"),
    _Observed(
        "mlp_row_density_ratio",
        "The share of a block's neurons that each real row used.",
        ("block",),
        lambda s: (((name,), block.densities) for name, block in s.blocks.items()),
    ),
    _of_blocks(
        "estimated_dense_seconds",
        "What dense MLP blocks would have taken, estimated from measured costs.",
        "dense_seconds",
        estimate=True,
    ),
    _of_blocks(
        "estimated_executed_seconds",
        "What the MLP blocks took, estimated from measured costs.",
        "executed_seconds",
        estimate=True,
    ),
    _one("mlp_flops_dense", "Operations that dense MLP blocks would take.", "flops_dense"),
    _one("mlp_flops_executed", "Operations that were done instead.", "flops_executed"),
    _one(
        "budget_lowered_requests",
        "Requests that load gave a lower budget than they asked for.",
        "lowered_requests",
    ),
    _one("budget_lowered_tokens", "The tokens of those requests.", "lowered_tokens"),
    _one(
        "out_of_memory_batches",
        "Batches that a GPU had no memory for, and that were run once more in halves.",
        "out_of_memory",
    ),
)


class ModelCollector(Collector):
    """Shows the models' own numbers."""

    def __init__(self, all_series: Mapping[tuple[str, str], ModelSeries], lock: threading.Lock) -> None:
        self._all = all_series
        self._lock = lock

    def collect(self) -> Iterable[Metric]:
        """Give the families, all of the same moment."""
        with self._lock:
            for series in self._all.values():
                series.settle()
            return [family.family(self._all) for family in _FAMILIES]
