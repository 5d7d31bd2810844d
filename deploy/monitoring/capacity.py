"""The dashboard of capacity: how full the servers are, what is wasted, and what a million tokens cost."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from deploy.monitoring.panels import ALL, INSTANCES, VERSIONS, Band, Query, board, lines
from deploy.monitoring.records import Objectives

__all__ = ["capacity"]

_NAME = "{{model}} {{version}}"
_FULL = Band(above=0.8)


def capacity(objectives: Objectives) -> models.Dashboard:
    """Return it."""
    made = board(
        "lazyneuron-capacity",
        "Capacity",
        "Utilisation, batches, padding and memory, and the cost of a million tokens.",
        dashboard.TextBoxVariable("price")
        .label("price of a server, an hour")
        .description("In any currency; costs are shown in it.")
        .default_value("0.20")
        .current(models.VariableOption(selected=True, text="0.20", value="0.20")),
    )
    made.row("Utilisation", *_utilisation(objectives))
    made.row("Batches", *_batches())
    made.row("Cost", *_cost())
    made.row("Machines", *_machines())
    return made.build()


def _utilisation(objectives: Objectives) -> list[models.Panel]:
    return [
        lines(
            "Utilisation",
            "The share of the time in which the engine ran, by server; 1 is a server that can do no more.",
            Query(INSTANCES.utilisation(), "{{instance}}"),
            unit="percentunit",
            band=_FULL,
            width=8,
            most=1,
        ),
        lines(
            "Servers' worth of work",
            "How many servers would do all of it, always busy; dashed: with dense MLP blocks, by the costs measured for"
            " this kind of machine (an estimate).",
            Query(ALL.busy(), "now"),
            Query(ALL.busy_if_dense(), "dense (estimate)", dashed=True),
            Query(ALL.servers(), "servers there are", dashed=True),
            unit="none",
            width=8,
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
    ]


def _batches() -> list[models.Panel]:
    return [
        lines(
            "Batch fill",
            "The mean batch's tokens, padding included, over the most that a batch may have.",
            Query(VERSIONS.batch_fill(), _NAME),
            unit="percentunit",
            width=8,
            most=1,
        ),
        lines(
            "Requests in a batch",
            "On average.",
            Query(VERSIONS.mean("batch_requests"), _NAME),
            unit="none",
            width=8,
        ),
        lines(
            "Padding",
            "The share of the tokens run that was padding. Sparse blocks skip padding; the rest of the model does not.",
            Query(VERSIONS.padding(), _NAME),
            unit="percentunit",
            width=8,
        ),
        lines(
            "Tokens",
            "Real tokens a second, by server.",
            Query(INSTANCES.tokens(), "{{instance}}"),
            unit="short",
            stacked=True,
            width=8,
        ),
        lines(
            "Tokens that a busy server does",
            "Real tokens a second while the engine runs: what one server gives when it is always busy.",
            Query(f"{VERSIONS.tokens()} / {VERSIONS.busy()}", _NAME),
            unit="short",
            width=8,
        ),
        lines(
            "Batch duration",
            "In the engine, on average.",
            Query(VERSIONS.mean("inference_duration_seconds"), _NAME),
            unit="s",
            width=8,
        ),
    ]


def _cost() -> list[models.Panel]:
    price = "$price"
    return [
        lines(
            "Cost of a million tokens",
            "At the price above, of real tokens. As it is: all servers are paid for, busy or not. Always busy: what it"
            " falls to when they are. Dense: always busy, with dense MLP blocks (an estimate).",
            Query(ALL.cost(price, ALL.servers()), "as it is"),
            Query(ALL.cost(price, ALL.busy()), "always busy"),
            Query(ALL.cost(price, ALL.busy_if_dense()), "always busy, dense (estimate)", dashed=True),
            unit="none",
            width=24,
        ),
    ]


def _machines() -> list[models.Panel]:
    # The process's own metrics know no model: those of servers that have one of the chosen ones.
    serving = f"and on (job, instance) {ALL.series('model_info')}"
    return [
        lines(
            "Processor cores",
            "Used by each server.",
            Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {serving}", "{{instance}}"),
            unit="none",
            width=8,
        ),
        lines(
            "Memory of processes",
            "Resident.",
            Query(f"process_resident_memory_bytes {serving}", "{{instance}}"),
            unit="bytes",
            width=8,
        ),
        lines(
            "Memory of models",
            "What each loaded version is reckoned to take.",
            Query(VERSIONS.now("model_memory_bytes", by=("instance",)), f"{_NAME} on {{{{instance}}}}"),
            unit="bytes",
            stacked=True,
            width=8,
        ),
    ]
