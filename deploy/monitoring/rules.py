"""The alerts, and the file of rules that Prometheus reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from deploy.monitoring import records
from deploy.monitoring.records import Clock, Objectives

__all__ = ["RUNBOOKS", "Alert", "alerts", "rule_file"]

RUNBOOKS = "docs/runbooks/"
"""Where the runbooks lie: in this repository, one page an alert."""

_HEADER = """\
# Written by `python -m deploy.monitoring`, which is where to change it; `--help` shows the objectives that it takes.
"""
_VERSION = "{{ $labels.model }} version {{ $labels.version }}"
_TARGETS = 'up{job=~".*lazyneuron.*"}'
# At 14.4 times the allowed rate, 2 % of the budget of 30 days are spent in an hour; at 6 times, 5 % in six hours.
# The short window ends the alert soon after the cause (Google's SRE workbook, chapter 5).
_BURNS = (("1h", "5m", 14.4, "2m", "critical"), ("6h", "30m", 6.0, "15m", "warning"))


@dataclass(frozen=True)
class Alert:
    """An alerting rule; its comparisons are written with a space on either side.

    Attributes
    ----------
    name
        Also the name of its runbook.
    expression
        PromQL that gives a series for each thing that is amiss.
    lasting
        For how long it has to be.
    severity
        `critical`: somebody is to be woken; `warning`: somebody is to look in working hours.
    summary, description
        What is amiss, for a person; templates of Prometheus.
    dashboard
        Where to look: the dashboard's uid.
    """

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    description: str
    dashboard: str = "lazyneuron-overview"

    def as_rule(self, runbooks: str = RUNBOOKS) -> dict[str, Any]:
        """Return it as Prometheus's rule files have it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "dashboard": f"/d/{self.dashboard}",
                "runbook_url": f"{runbooks}{self.name}.md",
            },
        }


def _sparsity(objectives: Objectives, clock: Clock) -> list[Alert]:
    """Tell when the traffic is no longer like the calibration data, and when nothing is saved."""
    drift, least = objectives.drift, objectives.drift_least
    return [
        Alert(
            "LazyneuronDensityDrift",
            # Where load lowers budgets, a density below what was exported is meant.
            f"(\n"
            f"  {records.DRIFT} > {drift:g}\n"
            f"  or\n"
            f"  ({records.DRIFT} < {1 / drift:.4g} and on (job, model, version) {records.LOWERED} == 0)\n"
            f")\n"
            f"and abs({records.DENSITY} - {records.EXPORTED_DENSITY}) > {least:g}\n"
            f"and {records.ROWS} > {objectives.drift_rows}",
            clock("10m"),
            "warning",
            _VERSION + ": block {{ $labels.block }} is not as sparse as at export",
            'Its density has been {{ printf "%.2f" $value }} times that of the calibration data for 10 minutes'
            f" (allowed: {1 / drift:.2g} to {drift:g} times). The traffic is not what the model was calibrated on.",
            "lazyneuron-sparsity",
        ),
        Alert(
            "LazyneuronSavingsGone",
            f"{records.FLOPS_SAVED} < {objectives.saved:g}",
            clock("15m"),
            "warning",
            f"{_VERSION} saves almost none of its MLP FLOPs",
            "Over the last 5 minutes it saved {{ $value | humanizePercentage }} of them"
            f" (expected: {objectives.saved:.0%} or more).",
            "lazyneuron-sparsity",
        ),
        Alert(
            "LazyneuronSkippingSlower",
            f"{records.TIME_SAVED} < 0",
            clock("15m"),
            "warning",
            f"{_VERSION} would be faster dense",
            "By the cost model's estimate its sparse MLP blocks saved {{ $value | humanizePercentage }} of the time of"
            " dense ones: skipping costs more than it saves.",
            "lazyneuron-sparsity",
        ),
    ]


def _objectives(objectives: Objectives, clock: Clock) -> list[Alert]:
    """Tell when requests are not answered, or not in time."""
    found = []
    for long, short, factor, lasting, severity in _BURNS:
        pace = f"over {long} and over {short} (budget: {{share}}): a pace at which 30 days' budget is gone within"
        pace += f" {30 / factor:.2g} days."
        found.append(
            Alert(
                "LazyneuronErrorBudgetBurn",
                _burn(records.errors, long, short, factor * objectives.error_budget),
                clock(lasting),
                severity,
                f"{_VERSION} fails too many requests",
                "{{ $value | humanizePercentage }} of its requests were not served, "
                + pace.format(share=f"{objectives.error_budget:.2%}"),
            )
        )
        found.append(
            Alert(
                "LazyneuronLatencyBudgetBurn",
                _burn(records.slow, long, short, factor * objectives.latency_budget),
                clock(lasting),
                severity,
                f"{_VERSION} answers too slowly",
                "{{ $value | humanizePercentage }} of its requests took longer than "
                f"{objectives.latency_seconds:g} s, {pace.format(share=f'{objectives.latency_budget:.2%}')}",
            )
        )
    return found


def _burn(record: Callable[[str], str], long: str, short: str, bound: float) -> str:
    return f"{record(long)} > {bound:.6g}\nand\n{record(short)} > {bound:.6g}"


def _operation(objectives: Objectives, clock: Clock) -> list[Alert]:
    """Tell when a server lacks room, its models or its life."""
    return [
        Alert(
            "LazyneuronQueueSaturated",
            f"avg_over_time({records.QUEUE_FILL}[{clock('5m')}]) > {objectives.queue_fill:g}\n"
            f"or\n"
            f"{records.NO_ROOM} > {objectives.refused:g}",
            clock("5m"),
            "warning",
            f"{_VERSION}: the queue is full",
            f"Over {objectives.queue_fill:.0%} of the queue's tokens are taken, or over {objectives.refused:.0%} of the"
            " requests are refused for want of room ({{ $value | humanizePercentage }}).",
            "lazyneuron-capacity",
        ),
        Alert(
            "LazyneuronVersionFailedToLoad",
            # A counter that begins at 1 has no increase: what was not there an hour ago counts, too.
            f"(\n"
            f"  (\n"
            f'    lazyneuron_model_loads_total{{outcome!="loaded"}} > 0\n'
            f'    unless lazyneuron_model_loads_total{{outcome!="loaded"}} offset {clock("1h")}\n'
            f"  )\n"
            f"  or\n"
            f'  increase(lazyneuron_model_loads_total{{outcome!="loaded"}}[{clock("1h")}]) > 0\n'
            f")\n"
            f"unless on (job, instance, model, version) lazyneuron_model_info",
            clock("0s"),
            "warning",
            "{{ $labels.instance }} refused version {{ $labels.version }} of {{ $labels.model }}",
            "It failed at {{ $labels.outcome }} within the last hour and is not served; an older version may be.",
        ),
        Alert(
            "LazyneuronRepositoryUnreachable",
            "lazyneuron_repository_reachable == 0",
            clock("5m"),
            "warning",
            "{{ $labels.instance }} cannot read its folder of models",
            "What is loaded is served still, but no version comes or goes, and a restart would find no model.",
        ),
        Alert(
            "LazyneuronTargetDown",
            f"{_TARGETS} == 0",
            clock("2m"),
            "critical",
            "{{ $labels.instance }} does not answer Prometheus",
            "The server is down, hangs, or /metrics is not let through to Prometheus.",
        ),
        Alert(
            "LazyneuronTargetsMissing",
            f"absent({_TARGETS})",
            clock("5m"),
            "critical",
            "Prometheus watches no lazyneuron server",
            "No target's job has lazyneuron in its name: nothing of what the other alerts watch is seen.",
        ),
    ]


def alerts(objectives: Objectives, clock: Clock) -> list[Alert]:
    """Return all alerts."""
    return [*_sparsity(objectives, clock), *_objectives(objectives, clock), *_operation(objectives, clock)]


def rule_file(objectives: Objectives | None = None, clock: Clock | None = None, runbooks: str = RUNBOOKS) -> str:
    """Return the file of recording rules and alerts, as YAML.

    Parameters
    ----------
    objectives
        What is promised.
    clock
        How long the rules' minutes are.
    runbooks
        What stands before a runbook's name in an alert's `runbook_url`.
    """
    objectives, clock = objectives or Objectives(), clock or Clock()
    groups = {
        "lazyneuron.records": [{"record": r.name, "expr": r.expression} for r in records.records(objectives, clock)]
    }
    for name, part in (("sparsity", _sparsity), ("objectives", _objectives), ("operation", _operation)):
        groups[f"lazyneuron.{name}"] = [alert.as_rule(runbooks) for alert in part(objectives, clock)]
    document = {"groups": [{"name": name, "rules": rules} for name, rules in groups.items()]}
    return _HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1_000_000)


class _Dumper(yaml.SafeDumper):
    """One that writes an expression of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
