"""What `lazyneuron top` works out: rates, quantiles, counters that begin anew."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.cli.top_figures import figures, quantile
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.scrape import Snapshot, metrics_url

BOUNDS = (0.1, 0.5, 1.0, float("inf"))
SERIES = {"model": "m", "version": "1"}


def snapshot(at: float, *, started: float = 1000.0, **counters: float) -> Snapshot:
    """A server with one model; `requests_OK=3` is a counter with its label."""
    samples = {
        "process_start_time_seconds": {frozenset[tuple[str, str]](): started},
        "lazyneuron_model_info": {frozenset({**SERIES, "mode": "exact", "task": "t"}.items()): 1.0},
        "lazyneuron_exported_density": {frozenset({**SERIES, "block": "b"}.items()): 0.1},
        "lazyneuron_build_info": {frozenset({"version": "1.2"}.items()): 1.0},
    }
    for name, value in counters.items():
        name, _, label = name.partition("__")
        extra = {"requests": {"code": label}, "refused": {"reason": label}, "tokens": {"kind": label}}.get(name, {})
        extra = {"block": "b"} if name.startswith(("mlp_n", "mlp_e")) else extra
        full = {"requests": "requests_total", "refused": "requests_refused_total", "tokens": "tokens_total"}.get(name)
        labels = frozenset({**SERIES, **extra}.items())
        samples.setdefault(f"lazyneuron_{full or name}", {})[labels] = value
    return Snapshot(at, started + at, samples)


def test_rates_are_of_what_was_added() -> None:
    before = snapshot(10, requests__OK=100, requests__INTERNAL=1, tokens__real=1000, tokens__padding=0)
    after = snapshot(12, requests__OK=300, requests__INTERNAL=5, tokens__real=1300, tokens__padding=100)
    (model,) = figures(before, after).models
    assert model.requests_per_second == 102
    assert model.errors_per_second == {"INTERNAL": 2}
    assert model.tokens_per_second == 150
    assert model.padding == 0.25
    assert model.refused_per_second == {}


def test_density_savings_and_time_are_ratios_of_counters() -> None:
    before = snapshot(0, mlp_neurons_total=1000, mlp_neurons_active_total=500, mlp_flops_dense_total=100,
                      mlp_flops_executed_total=100)  # fmt: skip
    after = snapshot(
        5,
        mlp_neurons_total=2000,
        mlp_neurons_active_total=550,
        mlp_neurons_candidate_total=200,
        mlp_flops_dense_total=200,
        mlp_flops_executed_total=120,
        mlp_estimated_dense_seconds_total=3.0,
        mlp_estimated_executed_seconds_total=1.0,
    )
    (model,) = figures(before, after).models
    (block,) = model.blocks
    assert (block.density, block.density_since_start, block.exported_density) == (0.05, 0.275, 0.1)
    assert block.drift == pytest.approx(0.5)
    assert (model.saved.share, model.saved.flops, model.saved.seconds) == (0.8, 80, 2.0)
    assert (model.saved_since_start.share, model.saved_since_start.seconds) == (0.4, 2.0)


def test_one_look_tells_what_there_is_and_no_rate() -> None:
    seen = figures(None, snapshot(5, requests__OK=100, mlp_neurons_total=10, mlp_neurons_active_total=1))
    (model,) = seen.models
    assert (seen.window_seconds, seen.up_seconds, seen.build) == (None, 5, {"version": "1.2"})
    assert (model.requests_per_second, model.latency_p50_seconds) == (0, None)
    assert (model.blocks[0].density, model.blocks[0].shown) == (None, 0.1)


def test_a_server_that_was_started_again_gives_no_rate_that_mixes_both() -> None:
    seen = figures(snapshot(10, requests__OK=1000), snapshot(2, started=2000, requests__OK=5000))
    assert (seen.restarted, seen.window_seconds) == (True, None)
    assert seen.models[0].requests_per_second == 0


def test_a_version_that_was_loaded_again_counts_from_nothing() -> None:
    seen = figures(snapshot(10, requests__OK=1000), snapshot(11, requests__OK=7))
    assert (seen.restarted, seen.models[0].requests_per_second) == (False, 7)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in BOUNDS}
    true = float(np.quantile(values, share, method="inverted_cdf"))
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max([bound for bound in (0.0, *BOUNDS) if bound < true])
    found = quantile(share, buckets)
    assert found is not None
    assert lower - 1e-9 <= found <= upper + 1e-9


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ({}, None),
        (dict.fromkeys(BOUNDS, 0.0), None),
        ({0.1: 0.0, 0.5: 0.0, 1.0: 0.0, float("inf"): 3.0}, 1.0),  # above all bounds: the last one
        ({0.1: 10.0, 0.5: 10.0, 1.0: 10.0, float("inf"): 10.0}, 0.05),
        ({0.1: 0.0, 0.5: 10.0, 1.0: 8.0, float("inf"): 10.0}, 0.3),  # counters read while they changed
    ],
)
def test_quantiles_at_the_edges(buckets: dict[float, float], expected: float | None) -> None:
    assert quantile(0.5, buckets) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8002", "http://127.0.0.1:8002/metrics"),
        ("box", "http://box:8002/metrics"),
        ("[::1]:9", "http://[::1]:9/metrics"),
        ("http://box", "http://box/metrics"),
        ("https://box:1/", "https://box:1/metrics"),
        ("https://box/lazy/metrics", "https://box/lazy/metrics"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert metrics_url(address) == url


def test_tls_makes_https_of_a_bare_address() -> None:
    assert metrics_url("box:1", secure=True) == "https://box:1/metrics"
    with pytest.raises(ConfigurationError, match="expected https"):
        metrics_url("http://box:1", secure=True)


@pytest.mark.parametrize("address", ["", "ftp://box", "http://", "box:port", "http://name:secret@box", "bücher:8002"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigurationError, match="expected HOST:PORT"):
        metrics_url(address)
