"""The metrics are the design's: names, types, labels, units."""

import re
import shutil
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from lazyneuron.client import Client, Retries
from lazyneuron.engine.artifact import read_manifest
from lazyneuron.engine.cost import Work
from lazyneuron.engine.errors import REFUSALS, InputError, QueueFullError
from lazyneuron.engine.model import Model
from lazyneuron.server.estimates import Estimates
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.series import DENSITIES, BlockRecorder, BlockSeries
from tests.support.costs import linear_costs
from tests.support.server import ServerProcess, serving

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
    "mlp_row_density_ratio": ("histogram", MODEL | {"block"}),
    "mlp_estimated_dense_seconds_total": ("counter", MODEL | {"block"}),
    "mlp_estimated_executed_seconds_total": ("counter", MODEL | {"block"}),
    "requests_refused_total": ("counter", MODEL | {"reason"}),
    "queue_tokens": ("gauge", MODEL),
    "queue_limit_tokens": ("gauge", MODEL),
    "batch_limit_tokens": ("gauge", MODEL),
    "concurrency": ("gauge", MODEL),
    "build_info": ("gauge", {"version", "isa", "onnxruntime", "python"}),
    "running_batches": ("gauge", MODEL),
    "budget": ("gauge", MODEL),
    "budget_lowered_requests_total": ("counter", MODEL),
    "budget_lowered_tokens_total": ("counter", MODEL),
    "exported_density": ("gauge", MODEL | {"block"}),
    "model_info": ("gauge", MODEL | {"mode", "task"}),
    "model_device_info": ("gauge", MODEL | {"device"}),
    "gpu_memory_bytes": ("gauge", {"device", "kind"}),
    "out_of_memory_batches_total": ("counter", MODEL),
    "auth_failures_total": ("counter", {"reason"}),
    "reloads_total": ("counter", {"what", "outcome"}),
    "model_loads_total": ("counter", MODEL | {"outcome"}),
    "model_loaded_seconds": ("gauge", MODEL),
    "model_memory_bytes": ("gauge", MODEL),
    "repository_reachable": ("gauge", set()),
}


@pytest.fixture(scope="module")
def metrics(repository: Path) -> Metrics:
    model = Model.load(repository / "text")
    metrics = Metrics()
    recorder = metrics.model(model.manifest, lambda: 7)
    recorder.batch(model.run([model.request("lazy neurons"), model.request("sleep")]), [0.001, 0.002])
    metrics.loads.labels("text", "1", "loaded").inc()
    metrics.loaded_seconds.labels("text", "1").set(1)
    metrics.memory.labels("text", "1").set(1)
    metrics.gpu_memory(lambda: {("cuda:0", kind): 1.0 for kind in ("used", "total", "model")})
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


def test_the_documentation_has_each_with_its_labels(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "serving.md").read_text()
    table = {
        name: set(filter(None, (labels or "").replace(" ", "").split(",")))
        for name, labels in re.findall(
            r"`([a-z_]+)(?:\{([a-z_, ]+)\})?`", text[text.index("All of them; labels are") :]
        )
    }
    for name, (_, labels) in DESIGN.items():
        assert table.get(name) == (labels if name == "build_info" else labels - MODEL), name


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


def test_an_unloaded_version_leaves_nothing(repository: Path) -> None:
    metrics = Metrics()
    models = [Model.load(repository / name, threads=1) for name in ("text", "vector")]
    for model in models:
        metrics.model(model.manifest, lambda: 7)
        metrics.answered(model.name, "1", "OK", 0.01)

    def kinds(name: str) -> set[str]:
        families = [f for f in metrics.registry.collect() if f.name.startswith("lazyneuron_")]
        return {f.type for f in families for sample in f.samples if sample.labels.get("model") == name}

    assert kinds("text") == kinds("vector") == {"gauge", "counter", "histogram"}
    metrics.forget("text", "1")
    assert kinds("text") == {"counter", "histogram"}
    metrics.forget_counters("text", "1")
    assert kinds("text") == set()
    assert kinds("vector") == {"gauge", "counter", "histogram"}


def sample(metrics: Metrics, name: str, model: str = "text", **labels: str) -> float:
    value = metrics.registry.get_sample_value(f"lazyneuron_{name}", {"model": model, "version": "1"} | labels)
    assert value is not None, name
    return value


def series(metrics: Metrics, model: str = "text") -> set[str]:
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return {sample.name for sample in samples if sample.labels.get("model") == model}


def test_every_series_is_there_at_zero_once_a_model_is_loaded(repository: Path, metrics: Metrics) -> None:
    fresh = Metrics()
    fresh.model(Model.load(repository / "text", threads=1).manifest, lambda: 0)
    from_repository = {
        f"lazyneuron_{name}" for name in ("model_loads_total", "model_loaded_seconds", "model_memory_bytes")
    }
    assert series(metrics) - series(fresh) == from_repository
    for reason in REFUSALS:
        assert sample(fresh, "requests_refused_total", reason=reason) == 0
        assert fresh.registry.get_sample_value(
            "lazyneuron_requests_refused_total", {"model": "", "version": "", "reason": reason}
        ) == 0  # fmt: skip
    assert sample(fresh, "requests_total", code="OK") == 0


@cache
def text_model(repository: Path) -> Model:
    return Model.load(repository / "text", threads=1)


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(LENGTHS, min_size=1, max_size=4), scrape=st.booleans())
def test_rows_are_counted_by_their_density_and_padding_is_not(
    repository: Path, batches: list[list[int]], scrape: bool
) -> None:
    model = text_model(repository)
    metrics = Metrics()
    recorder = metrics.model(model.manifest, lambda: 0)
    expected: dict[str, list[int]] = {block.name: [] for block in model.manifest.blocks}
    for number, lengths in enumerate(batches):
        ids = [np.arange(number, number + length)[None] % 12 for length in lengths]
        requests = [model.request({"input_ids": i}) for i in ids]
        recorder.batch(model.run(requests), [0.0] * len(requests))
        if scrape:
            list(metrics.registry.collect())
        for one in requests:  # each alone: no padding at all
            alone = model.compute(model.prepare([one]))
            for block in model.manifest.blocks:
                expected[block.name] += alone.values[block.active_output].ravel().tolist()
    for block in model.manifest.blocks:
        rows = expected[block.name]
        assert sample(metrics, "mlp_row_density_ratio_count", block=block.name) == len(rows)
        total = sample(metrics, "mlp_row_density_ratio_sum", block=block.name)
        assert total == pytest.approx(sum(rows) / block.d_ff)
        assert total == pytest.approx(sample(metrics, "mlp_neurons_active_total", block=block.name) / block.d_ff)
        for bound in DENSITIES:
            below = sum(active <= bound * block.d_ff for active in rows)
            assert sample(metrics, "mlp_row_density_ratio_bucket", block=block.name, le=str(bound)) == below


def test_a_density_at_a_bound_is_in_its_bucket(repository: Path) -> None:
    plan = read_manifest(repository / "text" / "1").blocks[0].model_copy(update={"d_ff": 1000})
    recorder = BlockRecorder(BlockSeries(), plan, None)
    recorder.add_rows(np.array([0, 5, 6, 70, 71, 1000], np.int32))
    counts = dict(zip((*DENSITIES, None), recorder.series.densities.counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {0.005: 2, 0.01: 1, 0.07: 1, 0.1: 1, 1.0: 1}


def test_time_saved_is_what_the_costs_say_of_each_batch(repository: Path) -> None:
    costs = linear_costs(shapes=((16, 64),))
    model = Model.load(repository / "text", threads=1)
    metrics = Metrics(Estimates(costs))
    recorder = metrics.model(model.manifest, lambda: 0)
    dense = executed = 0.0
    for texts in (["lazy"], ["lazy neurons sleep", "few"], ["work and save time"] * 5):
        result = model.run([model.request(text) for text in texts])
        recorder.batch(result, [0.0] * len(texts))
        counts = result.sparsity.blocks[0]
        work = Work(16, 64, 16, counts.rows, counts.density)
        dense += counts.rows * costs.seconds_per_row("dense", work)
        executed += counts.rows * costs.seconds_per_row("exact", work)
    assert sample(metrics, "mlp_estimated_dense_seconds_total", block="block_0") == pytest.approx(dense)
    assert sample(metrics, "mlp_estimated_executed_seconds_total", block="block_0") == pytest.approx(executed)


def test_costs_that_cannot_be_read_leave_the_estimates_out(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAZYNEURON_COSTS", str(tmp_path / "none.json"))
    metrics = Metrics(Estimates())
    for name in ("text", "vector"):
        model = Model.load(repository / name, threads=1)
        recorder = metrics.model(model.manifest, lambda: 0)
    recorder.batch(model.run([model.request({"x": np.ones((3, 16), np.float32)})]), [0.0])
    assert not {name for name in series(metrics, "vector") if "estimated" in name}
    assert sample(metrics, "mlp_row_density_ratio_count", "vector", block="block_0") == 3
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "none.json" in warnings[0]


def test_many_batches_are_worked_off_without_a_scrape(repository: Path) -> None:
    model = Model.load(repository / "vector", threads=1)
    metrics = Metrics()
    recorder = metrics.model(model.manifest, lambda: 0)
    result = model.run([model.request({"x": np.ones((2, 16), np.float32)})])
    for _ in range(3000):
        recorder.batch(result, [0.0])
    assert len(metrics.series_of("vector", "1")._gathered) < 1024
    assert sample(metrics, "mlp_row_density_ratio_count", "vector", block="block_1") == 6000
    large = model.run([model.request({"x": np.ones((9000, 16), np.float32)})])
    for _ in range(20):
        recorder.batch(large, [0.0])
    assert len(metrics.series_of("vector", "1")._gathered) < 8


def test_threads_and_scrapes_at_once_lose_nothing(repository: Path) -> None:
    model = Model.load(repository / "vector", threads=1)
    metrics = Metrics()
    recorders = [metrics.model(model.manifest, lambda: 0) for _ in range(2)]
    result = model.run([model.request({"x": np.ones((2, 16), np.float32)})])

    def record(number: int) -> None:
        for _ in range(500):
            recorders[number % 2].batch(result, [0.0])
            metrics.answered("vector", "1", "OK", 0.001)

    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(record, number) for number in range(4)]
        while not all(one.done() for one in running):
            generate_latest(metrics.registry)
        for one in running:
            one.result()
    assert sample(metrics, "requests_total", "vector", code="OK") == 2000
    assert sample(metrics, "mlp_row_density_ratio_count", "vector", block="block_0") == 4000
    assert sample(metrics, "mlp_neurons_total", "vector", block="block_0") == 4000 * 64


def test_a_version_that_comes_back_counts_on(repository: Path) -> None:
    model = Model.load(repository / "vector", threads=1)
    metrics = Metrics()
    first, second = (metrics.model(model.manifest, lambda: 0) for _ in range(2))
    result = model.run([model.request({"x": np.ones((2, 16), np.float32)})])
    for recorder in (first, second, first):  # the earlier copy answers what it had admitted
        recorder.batch(result, [0.0])
    assert sample(metrics, "mlp_row_density_ratio_count", "vector", block="block_0") == 6
    assert sample(metrics, "tokens_total", "vector", kind="real") == 6


def test_exemplars_lead_to_traces_where_openmetrics_is_asked_for(metrics: Metrics) -> None:
    trace = f"{0xABC:032x}"
    metrics.answered("text", "1", "OK", 0.02, trace=trace)
    text = generate_openmetrics(metrics.registry).decode()
    found = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for family in parse_openmetrics(text)
        for sample in family.samples
        if sample.exemplar
    }
    (name, bucket), example = next(iter(found.items()))
    assert (len(found), name, bucket) == (1, "lazyneuron_request_duration_seconds_bucket", "0.025")
    assert (example.labels, example.value) == ({"trace_id": trace}, 0.02)
    assert trace not in generate_latest(metrics.registry).decode()


def test_refusals_of_a_real_server_are_counted_by_reason(slow_repository: Path, tmp_path: Path) -> None:
    config = """
        [limits]
        max_tokens = 3000
        [clients]
        max_in_flight = 1
    """
    x = np.zeros((1, 2000, 256), np.float32)
    with (
        serving(slow_repository, tmp_path / "log", config) as server,
        Client(server.grpc, retries=Retries(attempts=1)) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        with pytest.raises(InputError, match="max_tokens"):
            client.predict("slow", {"x": np.zeros((2, 2000, 256), np.float32)})
        calls = [pool.submit(client.predict, "slow", {"x": x}, outputs=False) for _ in range(4)]
        failed = [call.exception() for call in calls if call.exception() is not None]
        assert all(isinstance(error, QueueFullError) for error in failed)
        assert failed
        refused = {r: server.total("lazyneuron_requests_refused_total", model="slow", reason=r) for r in REFUSALS}
        assert refused == dict.fromkeys(REFUSALS, 0) | {"too_large": 1, "client_limit": len(failed)}
        assert server.total("lazyneuron_requests_refused_total", model="") == 0
        assert server.total("lazyneuron_concurrency", model="slow") == 1
        assert server.total("lazyneuron_queue_limit_tokens", model="slow") > 0


def test_prometheus_finds_no_fault(server: ServerProcess) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=server.get("/metrics"), text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
