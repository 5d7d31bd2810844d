"""The metrics are the design's: names, types, labels, units."""

import urllib.request
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from lazyneuron.engine.model import Model
from lazyneuron.server.metrics import Metrics
from tests.support.server import ServerProcess

MODEL = {"model", "version"}
DESIGN = {
    "requests_total": ("counter", MODEL | {"code"}),
    "request_duration_seconds": ("histogram", MODEL),
    "queue_duration_seconds": ("histogram", MODEL),
    "inference_duration_seconds": ("histogram", MODEL),
    "batch_requests": ("histogram", MODEL),
    "batch_tokens": ("histogram", MODEL),
    "tokens_total": ("counter", MODEL | {"kind"}),
    "queue_requests": ("gauge", MODEL),
    "mlp_neurons_total": ("counter", MODEL | {"block"}),
    "mlp_neurons_active_total": ("counter", MODEL | {"block"}),
    "mlp_neurons_candidate_total": ("counter", MODEL | {"block"}),
    "mlp_flops_dense_total": ("counter", MODEL),
    "mlp_flops_executed_total": ("counter", MODEL),
    "exported_density": ("gauge", MODEL | {"block"}),
    "model_info": ("gauge", MODEL | {"mode", "task"}),
}


@pytest.fixture(scope="module")
def metrics(repository: Path) -> Metrics:
    model = Model.load(repository / "text")
    metrics = Metrics()
    recorder = metrics.model(model.manifest, lambda: 7)
    recorder.batch(model.run([model.request("lazy neurons"), model.request("sleep")]), [0.001, 0.002])
    metrics.answered("text", "1", "OK", 0.01)
    metrics.answered("", "", "NOT_FOUND", 0.01)
    return metrics


def test_names_types_and_labels_are_the_design_s(metrics: Metrics) -> None:
    found = {}
    for family in metrics.registry.collect():
        if not family.name.startswith("lazyneuron_"):
            continue
        name = family.name.removeprefix("lazyneuron_") + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == DESIGN


def test_a_batch_is_recorded(metrics: Metrics) -> None:
    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"lazyneuron_{name}", {"model": "text", "version": "1"} | labels)

    assert value("tokens_total", kind="real") == 3
    assert value("tokens_total", kind="padding") == 1
    assert value("batch_tokens_sum") == 4
    assert value("batch_requests_sum") == 2
    assert value("queue_duration_seconds_count") == 2
    assert value("inference_duration_seconds_count") == 1
    assert value("mlp_neurons_total", block="block_1") == 3 * 64
    assert value("queue_requests") == 7
    assert value("exported_density", block="block_0") == pytest.approx(0.1)


def test_no_created_series_and_valid_openmetrics(metrics: Metrics) -> None:
    assert b"_created" not in generate_latest(metrics.registry)
    list(parse_openmetrics(generate_openmetrics(metrics.registry).decode()))


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", "text/plain;q=x", ";;;", "*/*"])
def test_any_accept_header_gets_metrics(server: ServerProcess, accept: str) -> None:
    request = urllib.request.Request(f"http://{server.http}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert b"lazyneuron_model_info" in answer.read()
