"""Spans: a request below its caller's, its wait, its batch linked to all of its requests, and its inference."""

import asyncio
import http.server
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server import edge
from lazyneuron.server.app import App
from lazyneuron.server.config import ServerConfig, TracingConfig
from lazyneuron.server.scheduler import Answer, Scheduler
from lazyneuron.server.tracing import Tracing
from tests.server.test_predict import request_for
from tests.support.server import serving

REQUEST = request_for("vector", {"x": np.ones((1, 16), np.float32)})
METHOD = "lazyneuron.v1.PredictionService/Predict"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"


def spans_of(
    repository: Path, monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, str]], *, ratio: float = 1.0
) -> tuple[ReadableSpan, ...]:
    """Serve calls with this metadata at the same time, over real sockets, and return the spans."""
    exporter = InMemorySpanExporter()
    tracing = TracingConfig(endpoint="http://127.0.0.1:9/", sample_ratio=ratio)
    monkeypatch.setattr(edge, "start_tracing", lambda config: Tracing(config, exporter))
    config = ServerConfig(grpc_port=0, http_port=0, tracing=tracing)

    async def run() -> None:
        app = App(repository, config)
        await app.start()
        async with grpc.aio.insecure_channel(app.grpc_address) as channel:
            predict = PredictionServiceStub(channel).Predict  # type: ignore[arg-type]
            await asyncio.gather(
                *(predict(REQUEST, metadata=tuple(metadata.items()), timeout=60) for metadata in calls)
            )
        await app.stop(20)

    asyncio.run(run())
    return exporter.get_finished_spans()


def test_durations_name_traces_where_openmetrics_is_asked_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "start_tracing", lambda config: Tracing(config, InMemorySpanExporter()))
    tracing = TracingConfig(endpoint="http://127.0.0.1:9/", sample_ratio=0.0)
    config = ServerConfig(grpc_port=0, http_port=0, tracing=tracing)
    accepts = ("application/openmetrics-text; version=1.0.0", "text/plain")

    def scrape(url: str, accept: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as answer:
            return answer.read().decode()

    async def run() -> list[str]:
        app = App(repository, config)
        await app.start()
        async with grpc.aio.insecure_channel(app.grpc_address) as channel:
            predict = PredictionServiceStub(channel).Predict  # type: ignore[arg-type]
            for metadata in ((), (("traceparent", CALLER.format(flags="01")),)):
                await predict(REQUEST, metadata=metadata, timeout=60)
        found = [await asyncio.to_thread(scrape, f"{app.http_url}metrics", accept) for accept in accepts]
        await app.stop(20)
        return found

    openmetrics, text = asyncio.run(run())
    examples = [
        (sample.name, sample.labels["model"], sample.exemplar.labels)
        for family in text_string_to_metric_families(openmetrics)
        for sample in family.samples
        if sample.exemplar is not None
    ]
    name, trace = "lazyneuron_request_duration_seconds_bucket", "0af7651916cd43dd8448eb211c80319c"
    assert examples == [(name, "vector", {"trace_id": trace})]
    assert trace not in text


def test_a_request_s_spans_are_below_its_caller_s(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = {"traceparent": CALLER.format(flags="01"), "tracestate": "vendor=1", "x-request-id": "traced-1"}
    found = {span.name: span for span in spans_of(repository, monkeypatch, [caller])}
    assert set(found) == {METHOD, "queue", "batch", "inference"}
    request = found[METHOD]
    assert request.parent is not None
    assert request.parent.span_id == 0xB7AD6B7169203331
    assert {span.context.trace_id for span in found.values()} == {0x0AF7651916CD43DD8448EB211C80319C}
    assert request.context.trace_state.get("vendor") == "1"
    assert request.attributes is not None
    assert request.attributes["lazyneuron.request_id"] == "traced-1"
    assert request.attributes["lazyneuron.model"] == "vector"
    assert request.attributes["lazyneuron.code"] == "OK"
    for name in ("queue", "inference", "batch"):
        assert found[name].parent is not None
        assert found[name].parent.span_id == request.context.span_id  # type: ignore[union-attr]
    queue_span, inference, batch = found["queue"], found["inference"], found["batch"]
    assert request.start_time is not None
    assert request.end_time is not None
    # The clocks are two, the wall's and the monotonic one, so a millisecond may be lost between them.
    assert request.start_time - 10**6 <= queue_span.start_time <= queue_span.end_time  # type: ignore[operator]
    assert queue_span.end_time == inference.start_time == batch.start_time
    assert inference.end_time <= request.end_time + 10**6  # type: ignore[operator]
    assert [link.context.span_id for link in inference.links] == [batch.context.span_id]


def hold_until_submitted(monkeypatch: pytest.MonkeyPatch, requests: int) -> None:
    """Have the engine wait with its first batch until so many requests have been submitted."""
    everybody, submitted = threading.Event(), itertools.count(1)
    submit, compute = Scheduler.submit, Scheduler.compute

    async def counted(scheduler: Scheduler, *arguments: Any, **options: Any) -> Answer:
        if next(submitted) == requests:
            asyncio.get_running_loop().call_soon(everybody.set)  # once this one is in the queue
        return await submit(scheduler, *arguments, **options)

    def held(scheduler: Scheduler, batch: Any) -> Any:
        assert everybody.wait(60)
        return compute(scheduler, batch)

    monkeypatch.setattr(Scheduler, "submit", counted)
    monkeypatch.setattr(Scheduler, "compute", held)


def test_a_batch_is_linked_to_every_request_in_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until_submitted(monkeypatch, 24)
    spans = spans_of(repository, monkeypatch, [{} for _ in range(24)])
    kinds = Counter(span.name for span in spans)
    assert kinds[METHOD] == kinds["queue"] == kinds["inference"] == 24
    requests = {span.context.span_id for span in spans if span.name == METHOD}
    linked = [link.context.span_id for span in spans if span.name == "batch" for link in span.links]
    assert sorted(linked) == sorted(requests), "each request is in one batch"
    assert kinds["batch"] < 24, "some ran together"


@pytest.mark.parametrize(("flags", "ratio", "spans"), [("00", 1.0, 0), ("01", 0.0, 4)])
def test_the_caller_s_decision_counts(
    repository: Path, monkeypatch: pytest.MonkeyPatch, flags: str, ratio: float, spans: int
) -> None:
    caller = {"traceparent": CALLER.format(flags=flags)}
    assert len(spans_of(repository, monkeypatch, [caller], ratio=ratio)) == spans


@pytest.mark.parametrize("parent", ["nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 4000, ""])
def test_a_caller_that_is_none_begins_a_trace_of_its_own(
    repository: Path, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    request = next(span for span in spans_of(repository, monkeypatch, [{"traceparent": parent}]) if span.name == METHOD)
    assert request.parent is None


@pytest.fixture
def collector() -> Iterator[tuple[str, "queue.Queue[ExportTraceServiceRequest]"]]:
    """An OTLP receiver over HTTP."""
    received: queue.Queue[ExportTraceServiceRequest] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.put(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{receiver.server_address[1]}/v1/traces", received
        receiver.shutdown()
        thread.join()


def test_spans_reach_a_collector(
    repository: Path, tmp_path: Path, collector: tuple[str, "queue.Queue[ExportTraceServiceRequest]"]
) -> None:
    endpoint, received = collector
    settings = f'[tracing]\nendpoint = "{endpoint}"\nsample_ratio = 1.0\nservice_name = "here"\n'
    with serving(repository, tmp_path / "log", settings) as server, grpc.insecure_channel(server.grpc) as channel:
        metadata = [("traceparent", CALLER.format(flags="01"))]
        PredictionServiceStub(channel).Predict(REQUEST, metadata=metadata, timeout=20)
        assert server.terminate() == 0  # what has not been sent is, before the end
    names: set[str] = set()
    while not received.empty():
        for resource in received.get().resource_spans:
            named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            assert named["service.name"] == "here"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
                    names.add(span.name)
    assert names == {METHOD, "queue", "batch", "inference"}


def test_a_collector_that_is_away_costs_spans_alone(repository: Path, tmp_path: Path) -> None:
    settings = '[tracing]\nendpoint = "http://127.0.0.1:9/v1/traces"\nsample_ratio = 1.0\n'
    with serving(repository, tmp_path / "log", settings) as server, grpc.insecure_channel(server.grpc) as channel:
        for _ in range(500):  # more spans than are sent at a time
            PredictionServiceStub(channel).Predict(REQUEST, timeout=20)
        begun = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - begun < 9


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )


def test_without_tracing_nothing_of_it_is_imported() -> None:
    done = _python(
        "import sys; from lazyneuron.server.edge import Edge; from lazyneuron.server.config import ServerConfig\n"
        "from lazyneuron.server.metrics import Metrics; Edge(ServerConfig(), Metrics())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_missing_extra_is_told(repository: Path) -> None:
    done = _python(
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None; from lazyneuron.cli import main\n"
        f"main(['serve', {str(repository)!r}, '--grpc-port', '0', '--http-port', '0',"
        " '--set', 'tracing.endpoint=http://127.0.0.1:9/'])"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: tracing.endpoint is set and OpenTelemetry is not there (")
    assert done.stderr.endswith("; pip install 'lazyneuron[tracing]'\n")
