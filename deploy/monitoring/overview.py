"""The dashboard for a glance: speed, errors and queue, and what sparsity saves."""

from grafana_foundation_sdk.models import dashboard as models

from deploy.monitoring import records
from deploy.monitoring.asking import AUTOMATIC
from deploy.monitoring.panels import (
    ALL,
    FIVE_MINUTES,
    RECORDED,
    VERSIONS,
    Band,
    Query,
    board,
    cells,
    figure,
    lines,
    states,
    table,
)
from deploy.monitoring.records import Objectives

__all__ = ["overview"]

_NAME = "{{model}} {{version}}"


def overview(objectives: Objectives) -> models.Dashboard:
    """Return it."""
    made = board(
        "lazyneuron-overview",
        "Overview",
        "Throughput, latency, errors and queue, and what sparsity saves. The other two go deeper.",
    )
    made.row("Now", *_now(objectives))
    made.row("Requests", *_requests(objectives))
    made.row("Sparsity", *_sparsity())
    made.row("Queue", *_queue(objectives))
    made.row("Servers", *_servers())
    return made.build()


def _now(objectives: Objectives) -> list[models.Panel]:
    five = FIVE_MINUTES
    return [
        figure(
            "MLP FLOPs saved",
            "Of the FLOPs that dense MLP blocks would have taken in the last five minutes, the share that was not"
            " executed: 1 − executed / dense, of real tokens alone, as the operators counted.",
            Query(five.flops_saved(), "saved"),
            unit="percentunit",
            band=Band(below=objectives.saved),
        ),
        figure(
            "MLP time saved (estimate)",
            "The share of the MLP blocks' time that was saved in the last five minutes, by the costs measured for this"
            " kind of machine: an estimate.",
            Query(five.time_saved(), "saved"),
            unit="percentunit",
            band=Band(below=0),
        ),
        figure(
            "Neurons active",
            "Realised density: the share of all MLP neurons that were active in the last five minutes.",
            Query(five.density(by=()), "active"),
            unit="percentunit",
        ),
        figure(
            "Requests", "Answered a second, over five minutes.", Query(five.rate("requests_total"), ""), unit="reqps"
        ),
        figure(
            "p99",
            "Ninety-nine of a hundred requests took no longer, over five minutes.",
            Query(five.latency(0.99), "p99"),
            unit="s",
            band=Band(above=objectives.latency_seconds),
        ),
        figure(
            "Not served",
            "Requests answered with an error that was not the caller's, over five minutes.",
            Query(five.errors(), "not served"),
            unit="percentunit",
            band=Band(above=objectives.error_budget),
            decimals=2,
        ),
        figure(
            "Queue",
            "The fullest queue: its tokens over what may wait.",
            Query(five.queue_fill(), "full"),
            unit="percentunit",
            band=Band(above=objectives.queue_fill),
        ),
        figure(
            "Servers down",
            "Targets that Prometheus cannot read.",
            Query('count(up{job=~".*lazyneuron.*", instance=~"$instance"} == 0) or vector(0)', "down"),
            unit="none",
            band=Band(above=1),
            decimals=0,
        ),
    ]


def _requests(objectives: Objectives) -> list[models.Panel]:
    codes = Query(ALL.rate("requests_total", by=("code",)), "{{code}}")
    budgets = [("errors", records.errors, objectives.error_budget), ("slow", records.slow, objectives.latency_budget)]
    return [
        lines("Requests by status", "Answers a second, by gRPC status.", codes, unit="reqps", stacked=True),
        lines("Tokens", "Real tokens a second.", Query(VERSIONS.tokens(), _NAME), unit="short", stacked=True),
        cells(
            "Latency",
            "From a request's arrival to its answer: how many requests fell into each range.",
            Query(ALL.increase("request_duration_seconds_bucket", by=("le",)), "{{le}}", exemplars=True),
            unit="s",
        ),
        lines(
            "Latency by share of requests",
            f"Half, 90 % and 99 % of the requests took no longer. The objective: {objectives.latency:.0%} within"
            f" {objectives.latency_seconds:g} s.",
            *[Query(ALL.latency(share), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)],
            unit="s",
            band=Band(above=objectives.latency_seconds),
        ),
        lines(
            "Pace at which budgets are spent",
            "1 spends a budget of 30 days in 30 days; alerts fire at 14.4 over an hour, and at 6 over six. Errors:"
            f" {objectives.error_budget:.2%} of the requests may fail; slow: {objectives.latency_budget:.1%} may take"
            f" longer than {objectives.latency_seconds:g} s. All instances together.",
            *[
                Query(f"{record(window)}{{{RECORDED}}} / {budget:.6g}", f"{what}, {window} {_NAME}")
                for what, record, budget in budgets
                for window in ("1h", "6h")
            ],
            unit="none",
            band=Band(above=6),
        ),
        lines(
            "Refused",
            "Requests turned away that may have been right, a second, by reason.",
            Query(ALL.rate("requests_refused_total", by=("reason",)), "{{reason}}"),
            unit="reqps",
            stacked=True,
        ),
    ]


def _sparsity() -> list[models.Panel]:
    return [
        lines(
            "MLP FLOPs saved",
            "The share of the dense MLP blocks' FLOPs that was not executed, of real tokens alone.",
            Query(VERSIONS.flops_saved(), _NAME),
            unit="percentunit",
            width=8,
            most=1,
        ),
        lines(
            "Density, all blocks",
            "The share of MLP neurons that were active; dashed: on the calibration data.",
            Query(VERSIONS.density(by=()), _NAME),
            Query(VERSIONS.exported_density_of_all(), f"{_NAME}, exported", dashed=True),
            unit="percentunit",
            width=8,
        ),
        lines(
            "MLP time saved (estimate)",
            "Engine seconds saved in each second, by the costs measured for this kind of machine: an estimate.",
            Query(VERSIONS.seconds_saved(), _NAME),
            unit="s",
            width=8,
        ),
    ]


def _queue(objectives: Objectives) -> list[models.Panel]:
    return [
        lines(
            "Requests waiting", "In the queue now.", Query(VERSIONS.now("queue_requests"), _NAME), unit="none", width=8
        ),
        lines(
            "Queue",
            "Tokens that wait over what may; the fullest instance.",
            Query(VERSIONS.queue_fill(), _NAME),
            unit="percentunit",
            band=Band(above=objectives.queue_fill),
            width=8,
            most=1,
        ),
        lines(
            "Wait in the queue",
            "Half and 99 % of the requests waited no longer.",
            *[Query(ALL.wait(share), f"p{share * 100:g}") for share in (0.5, 0.99)],
            unit="s",
            width=8,
        ),
    ]


def _servers() -> list[models.Panel]:
    ringing = f'ALERTS{{alertname=~"Lazyneuron.+", {RECORDED}, alertstate='
    alerts = f'(2 * {ringing}"firing"}}) or {ringing}"pending"}}'
    return [
        states(
            "Alerts",
            "Orange: its condition holds; red: it fires. Each has a page in docs/runbooks.",
            Query(f"max by (alertname, model, version, instance) ({alerts})", AUTOMATIC),
            {1: "orange", 2: "red"},
        ),
        states(
            "Versions served",
            "Where each version of a model is loaded.",
            Query(f"max by (instance, model, version) ({ALL.series('model_info')})", f"{_NAME} on {{{{instance}}}}"),
            {1: "green"},
        ),
        table(
            "Builds",
            "What runs where: versions of lazyneuron, ONNX Runtime and Python, and the kernels' instruction set.",
            Query('lazyneuron_build_info{instance=~"$instance"}', ""),
        ),
        lines(
            "Versions loaded and refused",
            "How often each version was loaded, or refused at which step.",
            Query(ALL.now("model_loads_total", by=("model", "version", "outcome")), f"{_NAME} {{{{outcome}}}}"),
            unit="none",
        ),
    ]
