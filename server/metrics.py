"""Every metric: name, unit, labels and buckets. Nothing else in the server creates one.

Sparsity and saved FLOPs are left to whoever reads them, as ratios of these counters: so they are right over any window
and any number of replicas. Only loaded models make series; a request for another is counted under empty labels.
"""

from collections.abc import Callable, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.model import BatchResult

__all__ = ["Metrics", "ModelMetrics"]

_MODEL = ("model", "version")
_BLOCK = (*_MODEL, "block")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    """The server's metrics, in a registry of their own.

    Attributes
    ----------
    registry
        What `/metrics` shows.
    """

    def __init__(self) -> None:
        # Otherwise each counter and histogram brings a `_created` series that nobody asked for.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Answered inference requests, by gRPC status.", (*_MODEL, "code"))
        self._request_seconds = self._seconds("request_duration", "From a request's arrival to its answer.")
        self.queue_seconds = self._seconds("queue_duration", "What each request waited before its batch began.")
        self.inference_seconds = self._seconds("inference_duration", "What each batch took in the engine.")
        self.batch_requests = self._histogram("batch_requests", "Requests in a batch.", _REQUESTS)
        self.batch_tokens = self._histogram("batch_tokens", "Tokens in a batch, padding included.", _TOKENS)
        self.tokens = self._counter("tokens", "Tokens run: real ones, and padding.", (*_MODEL, "kind"))
        self.queue_requests = self._gauge("queue_requests", "Requests that wait now.", _MODEL)
        self.neurons = self._counter("mlp_neurons", "MLP neurons there were: rows × d_ff.", _BLOCK)
        self.active = self._counter("mlp_neurons_active", "MLP neurons that were used.", _BLOCK)
        self.candidates = self._counter("mlp_neurons_candidate", "MLP neurons whose input was computed.", _BLOCK)
        self.flops_dense = self._counter("mlp_flops_dense", "Operations that dense MLP blocks would take.", _MODEL)
        self.flops_executed = self._counter("mlp_flops_executed", "Operations that were done instead.", _MODEL)
        self.exported_density = self._gauge(
            "exported_density", "The share of neurons active on the calibration data.", _BLOCK
        )
        self.model_info = self._gauge("model_info", "1 for each loaded model.", (*_MODEL, "mode", "task"))

    def model(self, manifest: Manifest, queue_length: Callable[[], int]) -> "ModelMetrics":
        """Return a loaded model's series, all of them present from now on."""
        return ModelMetrics(self, manifest, queue_length)

    def answered(self, model: str, version: str, code: str, seconds: float) -> None:
        """Count a request that was answered; `model` is empty when it named none that is loaded."""
        self._requests.labels(model, version, code).inc()
        if model:
            self._request_seconds.labels(model, version).observe(seconds)

    def _counter(self, name: str, help_text: str, labels: Sequence[str]) -> Counter:
        return Counter(f"lazyneuron_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, labels: Sequence[str]) -> Gauge:
        return Gauge(f"lazyneuron_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"lazyneuron_{name}", help_text, _MODEL, buckets=buckets, registry=self.registry)

    def _seconds(self, name: str, help_text: str) -> Histogram:
        return self._histogram(f"{name}_seconds", help_text, _SECONDS)


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
    """

    def __init__(self, metrics: Metrics, manifest: Manifest, queue_length: Callable[[], int]) -> None:
        labels = (manifest.name, str(manifest.version))
        self._queue_seconds = metrics.queue_seconds.labels(*labels)
        self._inference_seconds = metrics.inference_seconds.labels(*labels)
        self._batch_requests = metrics.batch_requests.labels(*labels)
        self._batch_tokens = metrics.batch_tokens.labels(*labels)
        self._real = metrics.tokens.labels(*labels, "real")
        self._padding = metrics.tokens.labels(*labels, "padding")
        self._flops_dense = metrics.flops_dense.labels(*labels)
        self._flops_executed = metrics.flops_executed.labels(*labels)
        self._blocks = [
            (
                metrics.neurons.labels(*labels, block.name),
                metrics.active.labels(*labels, block.name),
                metrics.candidates.labels(*labels, block.name),
            )
            for block in manifest.blocks
        ]
        for block in manifest.blocks:
            metrics.exported_density.labels(*labels, block.name).set(block.density.mean)
        metrics.model_info.labels(*labels, manifest.mode, manifest.task).set(1)
        metrics.queue_requests.labels(*labels).set_function(queue_length)

    def batch(self, result: BatchResult, waits: Sequence[float]) -> None:
        """Record a batch that ran, and what each of its requests waited (seconds)."""
        for wait in waits:
            self._queue_seconds.observe(wait)
        self._inference_seconds.observe(result.seconds)
        self._batch_requests.observe(len(result.predictions))
        self._batch_tokens.observe(result.tokens_real + result.tokens_padding)
        self._real.inc(result.tokens_real)
        self._padding.inc(result.tokens_padding)
        total = Sparsity.total([p.sparsity for p in result.predictions])
        self._flops_dense.inc(total.flops_dense)
        self._flops_executed.inc(total.flops_executed)
        for (neurons, active, candidates), counts in zip(self._blocks, total.blocks, strict=True):
            neurons.inc(counts.neurons)
            active.inc(counts.active)
            candidates.inc(counts.candidates)
