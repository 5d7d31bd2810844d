"""OpenTelemetry spans: a request's own, its wait, its batch's (linked to every request in it) and its inference.

Off, this costs a comparison a request. The SDK is the extra `lazyneuron[tracing]`, and is imported when it is wanted.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lazyneuron import __version__
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.server.config import TracingConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from lazyneuron.server.calls import Call

__all__ = ["Tracing", "start_tracing", "trace_batch"]

_CARRIED = ("traceparent", "tracestate")  # W3C Trace Context
_EXPORT_SECONDS = 5.0
_LONGEST_STATE = 512


class Tracing:
    """Makes the spans of requests.

    Parameters
    ----------
    config
        Where spans go, and how many.
    exporter
        What takes them; None: OTLP over HTTP to the endpoint.

    Raises
    ------
    ConfigurationError
        If OpenTelemetry is not installed.
    """

    def __init__(self, config: TracingConfig, exporter: "SpanExporter | None" = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ConfigurationError(
                f"tracing.endpoint is set and OpenTelemetry is not there ({error}); pip install 'lazyneuron[tracing]'"
            ) from None
        # The exporter tells about a collector that is away with every batch; our log says it as an error.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        if exporter is None:
            exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=_EXPORT_SECONDS)
        resource = Resource.create({"service.name": config.service_name, "service.version": __version__})
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lazyneuron", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, call: "Call", headers: Mapping[str, Any]) -> None:
        """Open a request's span, below its caller's if the call's headers (W3C Trace Context) name one."""
        from opentelemetry.trace import SpanKind

        carried = {name: str(headers[name])[:_LONGEST_STATE] for name in _CARRIED if name in headers}
        service, _, method = call.method.strip("/").rpartition("/")
        span = self._tracer.start_span(
            call.method.strip("/"),
            self._propagator.extract(carried),
            SpanKind.SERVER,
            {"rpc.service": service, "rpc.method": method, "lazyneuron.request_id": call.id},
        )
        call.span = span if span.is_recording() else None

    @staticmethod
    def end(call: "Call", code: str, *, failed: bool) -> None:
        """Close a request's span; `failed` tells a fault of the server's from an answer that is a refusal."""
        from opentelemetry.trace import Status, StatusCode

        span = call.span
        if span is None:
            return
        span.set_attribute("lazyneuron.code", code)
        if call.model is not None:
            span.set_attributes({"lazyneuron.model": call.model.name, "lazyneuron.version": call.model.version})
        if failed:
            span.set_status(Status(StatusCode.ERROR, call.error or code))
        span.end()

    def batch(self, calls: Sequence["Call"], arrived: Sequence[float], started: float, seconds: float) -> None:
        """Make the spans of a batch that ran.

        Parameters
        ----------
        calls
            Those of its requests that are traced.
        arrived
            When each of these was queued, on the clock of `time.monotonic`.
        started
            When the batch began, on that clock.
        seconds
            What it took in the engine.
        """
        from opentelemetry.trace import Link, set_span_in_context

        wall = time.time_ns() - round((time.monotonic() - started) * 1e9)  # `started` as a date
        end = wall + round(seconds * 1e9)
        spans = [call.span for call in calls]
        # A batch belongs to no request alone: it stands below the first, and is linked to all.
        batch = self._tracer.start_span(
            "batch",
            set_span_in_context(spans[0]),
            attributes={"lazyneuron.batch_requests": calls[0].batch_requests},
            links=[Link(span.get_span_context()) for span in spans],
            start_time=wall,
        )
        for span, since in zip(spans, arrived, strict=True):
            parent = set_span_in_context(span)
            queued = wall - round((started - since) * 1e9)
            self._tracer.start_span("queue", parent, start_time=queued).end(wall)
            links = [Link(batch.get_span_context())]
            self._tracer.start_span("inference", parent, links=links, start_time=wall).end(end)
        batch.end(end)

    def close(self) -> None:
        """Send what is left; waits for a collector that is away no longer than a few seconds."""
        # Which sends all, some hundred spans at a time, each with that patience.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(_EXPORT_SECONDS)


def start_tracing(config: TracingConfig) -> Tracing | None:
    """Return tracing, if it is wanted.

    Raises
    ------
    ConfigurationError
        If OpenTelemetry is not installed.
    """
    return Tracing(config) if config.endpoint is not None else None


def trace_batch(
    calls: Sequence["Call | None"], arrived: Sequence[float], started: float, seconds: float, requests: int
) -> None:
    """Note in every call how its batch went, and make the spans of those that are traced.

    Parameters
    ----------
    calls
        Of the batch's requests; None for one that came from no call.
    arrived, started, seconds
        As `Tracing.batch`.
    requests
        How many ran together.
    """
    traced: list[tuple[Call, float]] = []
    for call, since in zip(calls, arrived, strict=True):
        if call is None:
            continue
        if not call.batch_requests:  # a large request may run in several
            call.queue_seconds = started - since
        call.inference_seconds += seconds
        call.batch_requests = max(call.batch_requests, requests)
        if call.span is not None:
            traced.append((call, since))
    if traced and (tracing := traced[0][0].tracing) is not None:
        tracing.batch([call for call, _ in traced], [since for _, since in traced], started, seconds)
