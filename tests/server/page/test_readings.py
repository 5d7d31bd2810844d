"""Readings and what grew between them; the quantile of a histogram."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lazyneuron.server.page.readings import Reading, quantile, read
from lazyneuron.server.page.window import SPAN, Window

MODEL = ("model", "version")


class Registry:
    """The families that a server has, as far as these tests need them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make = {"registry": self.registry}
        self.dense = Counter("lazyneuron_mlp_flops_dense", "", MODEL, **make)
        self.executed = Counter("lazyneuron_mlp_flops_executed", "", MODEL, **make)
        self.requests = Counter("lazyneuron_requests", "", (*MODEL, "code"), **make)
        self.refused = Counter("lazyneuron_requests_refused", "", (*MODEL, "reason"), **make)
        self.neurons = Counter("lazyneuron_mlp_neurons", "", (*MODEL, "block"), **make)
        self.active = Counter("lazyneuron_mlp_neurons_active", "", (*MODEL, "block"), **make)
        self.dense_seconds = Counter("lazyneuron_mlp_estimated_dense_seconds", "", (*MODEL, "block"), **make)
        self.executed_seconds = Counter("lazyneuron_mlp_estimated_executed_seconds", "", (*MODEL, "block"), **make)
        self.queue = Gauge("lazyneuron_queue_requests", "", MODEL, **make)
        self.budget = Gauge("lazyneuron_budget", "", MODEL, **make)
        self.seconds = Histogram("lazyneuron_request_duration_seconds", "", MODEL, buckets=(0.1, 1.0), **make)
        Counter("lazyneuron_unrelated", "", **make)

    def read(self, time: float, last: Reading | None = None) -> Reading:
        return read(self.registry, time, None if last is None else last.columns)


def test_what_grew() -> None:
    there = Registry()
    there.dense.labels("a", "1").inc(10)
    there.requests.labels("a", "1", "OK").inc(2)
    first = there.read(0.0)
    there.dense.labels("a", "1").inc(5)
    there.dense.labels("b", "1").inc(7)  # a new series: it grew from nothing
    there.requests.labels("a", "1", "OK").inc(3)
    there.requests.labels("", "", "NOT_FOUND").inc()
    second = there.read(10.0, first)
    change = second.since(first)
    assert change.seconds == 10
    assert change.total("mlp_flops_dense_total") == 12
    assert (change.of("mlp_flops_dense_total", "a", "1"), change.of("mlp_flops_dense_total", "b", "1")) == (5, 7)
    assert change.by("code", "requests_total", "a", "1") == {"OK": 3}
    assert change.all_by("code", "requests_total") == {"OK": 3, "NOT_FOUND": 1}
    assert second.now.of("mlp_flops_dense_total", "a", "1") == 15
    assert change.of("nothing", "a", "1") == 0
    assert not change.has("nothing", "a", "1")
    third = there.read(20.0, second)
    assert third.columns is second.columns
    assert third.since(second).total("mlp_flops_dense_total") == 0
    assert not any("unrelated" in name for name, _ in third.columns.keys)


def test_a_counter_that_began_anew_grew_from_nothing() -> None:
    there, again = Registry(), Registry()
    there.dense.labels("a", "1").inc(100)
    again.dense.labels("a", "1").inc(3)
    assert again.read(10.0).since(there.read(0.0)).total("mlp_flops_dense_total") == 3


def test_a_series_that_went_counts_no_more_and_stays_in_the_sum() -> None:
    there = Registry()
    window = Window(there.read(0.0))
    there.dense.labels("a", "1").inc(100)
    window.add(there.read(1.0))
    there.dense.remove("a", "1")
    window.add(there.read(2.0))
    assert window.span().total("mlp_flops_dense_total") == 0
    assert window.ever["mlp_flops_dense_total"] == 100


@given(st.lists(st.floats(0.2, 30), min_size=1, max_size=400))
def test_the_window_covers_five_minutes_and_little_more(pauses: list[float]) -> None:
    """Whatever the rhythm of the readings, increases add up and the memory is bounded."""
    there = Registry()
    window = Window(there.read(0.0))
    now, at = 0.0, [(0.0, 0.0)]
    for pause in pauses:
        now += pause
        there.dense.labels("a", "1").inc(1)
        at.append((now, at[-1][1] + 1))
        window.add(there.read(now, window.latest))
    span, moment = window.span(), window.moment()
    assert window.young == (now < SPAN)
    if window.young:
        assert span.seconds == pytest.approx(now)
    else:
        assert SPAN <= span.seconds <= SPAN + 10 + 2 * max(pauses)
    assert moment.seconds <= 10 + 2 * max(pauses)
    for change in (span, moment):
        begun = next(total for time, total in at if time == pytest.approx(now - change.seconds, abs=1e-6))
        assert change.total("mlp_flops_dense_total") == at[-1][1] - begun
    assert len(window._old) <= SPAN / 10 + 3
    assert len(window._recent) <= 10 / min(pauses) + 3


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_its_rank(values: list[float], at: float) -> None:
    bounds = [1.0, 2.0, 5.0, 10.0]
    buckets = {str(b): float(sum(v <= b for v in values)) for b in bounds} | {"+Inf": float(len(values))}
    rank = sorted(values)[max(0, math.ceil(at * len(values) - 1e-9) - 1)]
    least = max([b for b in bounds if b < rank], default=0.0)
    most = min([b for b in bounds if rank <= b], default=bounds[-1])
    found = quantile(at, buckets)
    assert (least if rank <= bounds[-1] else bounds[-1]) - 1e-9 <= found <= most + 1e-9


def test_a_quantile_as_prometheus_interpolates() -> None:
    assert quantile(0.5, {"1.0": 10, "2.0": 20, "+Inf": 20}) == 1.0
    assert quantile(0.75, {"1.0": 10, "2.0": 20, "+Inf": 20}) == 1.5
    assert quantile(0.99, {"1.0": 0, "+Inf": 5}) == 1.0
    assert math.isnan(quantile(0.5, {"1.0": 0, "+Inf": 0}))
    assert math.isnan(quantile(0.5, {}))
