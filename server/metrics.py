"""The server's metrics. Nothing else in it creates one.

What every request or batch changes are plain numbers (`series.py`), shown when somebody asks, under the names in
`families.py`; the rest is `prometheus_client`'s, and named here.

Sparsity and saved FLOPs are left to whoever reads them, as ratios of these counters: so they are right over any window
and any number of replicas. Only loaded models make series; a request for another is counted under empty labels.
"""

import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lazyneuron import __version__
from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import instruction_set
from lazyneuron.engine.model import BatchResult
from lazyneuron.server.auth import FAILURES
from lazyneuron.server.estimates import Estimates, shared_estimates
from lazyneuron.server.families import MODEL, ModelCollector
from lazyneuron.server.series import ModelSeries
from lazyneuron.server.statistics import Statistics

__all__ = ["Metrics", "ModelMetrics"]

_BLOCK = (*MODEL, "block")


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric of `prometheus_client`'s with the names of its labels."""

    metric: Any
    labels_of: tuple[str, ...]


class Metrics:
    """The server's metrics, in a registry of their own.

    Parameters
    ----------
    estimates
        What the blocks' work costs; None: the process's own.

    Attributes
    ----------
    registry
        What `/metrics` shows.
    statistics
        What the call `ModelStatistics` tells.
    estimates
        What the blocks' work costs.
    lock
        Held by whoever reads or changes the models' numbers.
    """

    def __init__(self, estimates: Estimates | None = None) -> None:
        # Otherwise each counter and histogram brings a `_created` series that nobody asked for.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.statistics = Statistics()
        self.estimates = shared_estimates() if estimates is None else estimates
        self.lock = threading.Lock()
        self._series = {("", ""): ModelSeries()}
        self._gauges: list[_Family] = []
        self._counters: list[_Family] = []
        ProcessCollector(registry=self.registry)
        self.registry.register(ModelCollector(self._series, self.lock))
        build = self._gauge("build_info", "1, for this build.", ("version", "isa", "onnxruntime", "python"))
        build.labels(__version__, _instruction_set(), str(ort.__version__), platform.python_version()).set(1)
        self.queue_requests = self._gauge("queue_requests", "Requests that wait now.", MODEL)
        self.queue_tokens = self._gauge("queue_tokens", "Tokens that wait now.", MODEL)
        self.queue_limit_tokens = self._gauge(
            "queue_limit_tokens", "Tokens that may wait now: the bound of size, or of time where that is less.", MODEL
        )
        self.batch_limit_tokens = self._gauge(
            "batch_limit_tokens", "The most tokens of a batch now: by size, or by time where that is less.", MODEL
        )
        self.running_batches = self._gauge("running_batches", "Batches that run now.", MODEL)
        self.concurrency = self._gauge("concurrency", "Batches that may run at the same time.", MODEL)
        self.budget = self._gauge("budget", "The greatest share of the exported k that load leaves a request.", MODEL)
        self.exported_density = self._gauge(
            "exported_density", "The share of neurons active on the calibration data.", _BLOCK
        )
        self.model_info = self._gauge("model_info", "1 for each loaded model.", (*MODEL, "mode", "task"))
        self.model_device_info = self._gauge(
            "model_device_info", "1 for each device that a loaded model runs on.", (*MODEL, "device")
        )
        self._auth_failures = self._counter("auth_failures", "Calls that were not let in, by reason.", ("reason",))
        for reason in FAILURES:
            self._auth_failures.labels(reason)
        self._reloads = self._counter("reloads", "Changed files that were read again.", ("what", "outcome"))
        for what in ("certificate", "tokens", "settings"):
            for outcome in ("used", "refused"):
                self._reloads.labels(what, outcome)
        self.loads = self._counter("model_loads", "Versions loaded or refused, by outcome.", (*MODEL, "outcome"))
        self.loaded_seconds = self._gauge("model_loaded_seconds", "How long a version has been served.", MODEL)
        self.memory = self._gauge("model_memory_bytes", "What a loaded version is reckoned to take.", MODEL)
        self.repository_reachable = self._gauge("repository_reachable", "1 while the folder of models can be read.", ())

    def model(
        self, manifest: Manifest, queue_length: Callable[[], int], devices: Sequence[Device] = (CPU,)
    ) -> "ModelMetrics":
        """Return a loaded model's series, all of them present from now on."""
        return ModelMetrics(self, manifest, queue_length, devices)

    def gpu_memory(self, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """Show GPUs' memory: bytes by device and kind (`used`, `total`, `model`), as `read` gives them when asked."""
        self.registry.register(_GpuMemory(read))

    def forget(self, model: str, version: str) -> None:
        """Drop the gauges of a version that is no longer loaded; its counters stay, for the reader to see their end."""
        for gauge in self._gauges:
            if gauge.labels_of == MODEL:
                # One that asks a function is in a cycle with it, which would keep the model until that is collected.
                gauge.metric.labels(model, version).set_function(float)
        _drop(self._gauges, model, version)
        self.statistics.forget(model, version)

    def forget_counters(self, model: str, version: str) -> None:
        """Drop all that is left of a version, or a server with many reloads would show ever more series."""
        _drop(self._counters, model, version)
        with self.lock:
            self._series.pop((model, version), None)

    def answered(
        self, model: str, version: str, code: str, seconds: float, *, refused: str = "", trace: str = ""
    ) -> None:
        """Count a request that was answered.

        Parameters
        ----------
        model, version
            Empty when it named none that is loaded.
        code
            The gRPC status.
        seconds
            From its arrival.
        refused
            One of `errors.REFUSALS`, if that is why it was not answered.
        trace
            Its trace's id, if it has one: the duration's exemplar.
        """
        with self.lock:
            series = self.series_of(model, version)
            series.requests[code] = series.requests.get(code, 0) + 1
            if refused:
                series.refused[refused] += 1
            if model:
                series.request_seconds.observe(seconds)
                if trace:
                    series.request_seconds.example(seconds, {"trace_id": trace}, time.time())
        if model:
            self.statistics.of(model, version).answered(seconds, ok=code == "OK")

    def series_of(self, model: str, version: str) -> ModelSeries:
        """Return a version's numbers; for whoever holds `lock`."""
        series = self._series.get((model, version))
        if series is None:
            series = self._series[model, version] = ModelSeries()
        return series

    def auth_failure(self, reason: str) -> None:
        """Count a call that was not let in; `reason` is one of `auth.FAILURES`."""
        self._auth_failures.labels(reason).inc()

    def reload(self, what: str, *, used: bool) -> None:
        """Count a changed certificate, tokens' file or settings' file that was read again."""
        self._reloads.labels(what, "used" if used else "refused").inc()

    def log_lines(self, lost: Callable[[], dict[str, int]]) -> None:
        """Show the lines of the log that nobody will read, by the reasons that `lost` gives when asked."""
        self.registry.register(_LostLines(lost))

    def calls(self, arrived: Callable[[], int], taken: Callable[[], int]) -> None:
        """Show the calls of any method that gRPC has received, and those that it has handed to Python, when asked."""
        self.registry.register(_Calls(arrived, taken))

    def _counter(self, name: str, help_text: str, labels: Sequence[str]) -> Counter:
        metric = Counter(f"lazyneuron_{name}", help_text, labels, registry=self.registry)
        self._counters.append(_Family(metric, tuple(labels)))
        return metric

    def _gauge(self, name: str, help_text: str, labels: Sequence[str]) -> Gauge:
        metric = Gauge(f"lazyneuron_{name}", help_text, labels, registry=self.registry)
        self._gauges.append(_Family(metric, tuple(labels)))
        return metric


class _LostLines(Collector):
    """A counter whose values are kept elsewhere: the log's thread must wait for no lock of ours."""

    def __init__(self, lost: Callable[[], dict[str, int]]) -> None:
        self._lost = lost

    def collect(self) -> Iterable[Metric]:
        """Give the counter."""
        family = CounterMetricFamily("lazyneuron_log_lines_lost", "Lines kept out of the log.", labels=["reason"])
        for reason, count in self._lost().items():
            family.add_metric([reason], count)
        yield family


class _GpuMemory(Collector):
    """A gauge whose values the driver has."""

    def __init__(self, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Give the gauge."""
        family = GaugeMetricFamily(
            "lazyneuron_gpu_memory_bytes",
            "A GPU's memory: used by anyone, in total, and by the loaded models when they were measured.",
            labels=["device", "kind"],
        )
        for labels, size in self._read().items():
            family.add_metric(list(labels), size)
        yield family


class _Calls(Collector):
    """What came to gRPC's core, and what was read of it: the others were cut off, or given up by their clients."""

    def __init__(self, arrived: Callable[[], int], taken: Callable[[], int]) -> None:
        self._arrived, self._taken = arrived, taken

    def collect(self) -> Iterable[Metric]:
        """Give the counters; the later first, so that it is never the greater."""
        taken = self._taken()
        yield CounterMetricFamily("lazyneuron_grpc_calls_taken", "gRPC calls that were read.", value=taken)
        yield CounterMetricFamily("lazyneuron_grpc_calls_arrived", "gRPC calls that came.", value=self._arrived())


class ModelMetrics:
    """One model's series, looked up once: a batch is recorded without a search by label.

    Parameters
    ----------
    metrics
        The server's.
    manifest
        The model's.
    queue_length
        Gives the requests that wait, when asked.
    devices
        Where it runs.
    """

    def __init__(
        self,
        metrics: Metrics,
        manifest: Manifest,
        queue_length: Callable[[], int],
        devices: Sequence[Device] = (CPU,),
    ) -> None:
        labels = (manifest.name, str(manifest.version))
        self._statistics = metrics.statistics.begin(*labels)
        estimates = metrics.estimates.of(manifest)
        self._lock = metrics.lock
        with self._lock:
            self._series = metrics.series_of(*labels)
            self._recorders = self._series.begin(manifest.blocks, estimates)
        for block in manifest.blocks:
            metrics.exported_density.labels(*labels, block.name).set(block.density.mean)
        metrics.model_info.labels(*labels, manifest.mode, manifest.task).set(1)
        for device in devices:
            metrics.model_device_info.labels(*labels, str(device)).set(1)
        metrics.queue_requests.labels(*labels).set_function(queue_length)
        gauges = {
            "running": metrics.running_batches,
            "concurrency": metrics.concurrency,
            "budget": metrics.budget,
            "queue_tokens": metrics.queue_tokens,
            "queue_limit": metrics.queue_limit_tokens,
            "batch_limit": metrics.batch_limit_tokens,
        }
        self._gauges = {name: gauge.labels(*labels) for name, gauge in gauges.items()}
        self._gauges["budget"].set(1)

    def show(
        self,
        *,
        running: Callable[[], int],
        concurrency: Callable[[], int],
        budget: Callable[[], float],
        queue_tokens: Callable[[], int],
        queue_limit: Callable[[], float],
        batch_limit: Callable[[], int],
    ) -> None:
        """Show what these give, when asked.

        Parameters
        ----------
        running, concurrency
            The batches that run, and that may at once.
        budget
            The greatest that load leaves a request.
        queue_tokens, queue_limit
            The tokens that wait, and that may.
        batch_limit
            The most tokens of a batch.
        """
        self._gauges["running"].set_function(running)
        self._gauges["concurrency"].set_function(concurrency)
        self._gauges["budget"].set_function(budget)
        self._gauges["queue_tokens"].set_function(queue_tokens)
        self._gauges["queue_limit"].set_function(queue_limit)
        self._gauges["batch_limit"].set_function(batch_limit)

    def lowered(self, requests: int, tokens: int) -> None:
        """Record requests that were given less than they asked for."""
        with self._lock:
            self._series.lowered_requests += requests
            self._series.lowered_tokens += tokens

    def out_of_memory(self) -> None:
        """Record a batch that a GPU had no memory for."""
        with self._lock:
            self._series.out_of_memory += 1

    def batch(self, result: BatchResult, waits: Sequence[float]) -> None:
        """Record a batch that ran, and what each of its requests waited (seconds)."""
        self._statistics.batch(result, waits)
        with self._lock:
            self._series.batch(self._recorders, result, waits)


def _instruction_set() -> str:
    try:
        return instruction_set()
    except (ConfigurationError, OSError):  # no operators: no model will load, and that says why
        return "none"


def _drop(families: Sequence[_Family], model: str, version: str) -> None:
    for family in families:
        if set(MODEL) <= set(family.labels_of):
            family.metric.remove_by_labels({"model": model, "version": version})
