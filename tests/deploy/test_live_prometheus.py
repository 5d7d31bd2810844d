"""The dashboards and the rules, asked of a real Prometheus that watches a real server under changing traffic."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from deploy.monitoring.__main__ import documents
from deploy.monitoring.asking import AUTOMATIC, Api, AskError, Series, fill, label_values, panels
from deploy.monitoring.drawing import main as draw_command
from deploy.monitoring.rules import alerts
from tests.support.prometheus import require
from tests.support.watched import BLOCKS, OBJECTIVES, Watched, watched

DASHBOARDS = {name: json.loads(text) for name, text in documents().items() if name.endswith(".json")}
QUERIES = [
    (f"{document['uid']}: {panel.title}: {legend}", expression)
    for document in DASHBOARDS.values()
    for panel in panels(document)
    for expression, legend in panel.queries
]
COMPARISON = re.compile(r" (==|>|<) ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    require("prometheus")
    with watched(tmp_path_factory.mktemp("watched")) as run:
        yield run


def numbers(series: list[Series]) -> list[float]:
    return [value for one in series for _, value in one.points if not math.isnan(value)]


def whole(run: Watched, expression: str) -> list[Series]:
    return run.api.over(expression, run.started["empty"], run.started["end"], run.scrape)


@pytest.mark.parametrize("model", [".*", "encoder"])
@pytest.mark.parametrize(("name", "expression"), QUERIES, ids=[name for name, _ in QUERIES])
def test_every_expression_of_every_panel_returns_series(run: Watched, name: str, expression: str, model: str) -> None:
    assert numbers(whole(run, fill(expression, run.variables(model)))), expression


def test_a_model_that_is_not_there_has_no_series(run: Watched) -> None:
    """Or what is chosen above the panels would not matter."""
    others = {name for name, expression in QUERIES if numbers(whole(run, fill(expression, run.variables("another"))))}
    # What is of servers, not of models.
    assert others == {"lazyneuron-overview: Servers down: down", "lazyneuron-overview: Builds: "}


def test_every_legend_tells_its_series_apart(run: Watched) -> None:
    """Grafana shows a label that is not there by its name."""
    for name, expression in QUERIES:
        legend = name.rsplit(": ", 1)[1]
        wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
        found = [series.labels for series in whole(run, fill(expression, run.variables()))]
        assert all(wanted <= set(labels) for labels in found), (name, found)
        if legend not in ("", AUTOMATIC):
            assert len({tuple(labels[label] for label in sorted(wanted)) for labels in found}) == len(found), (
                name,
                found,
            )


def test_the_variables_offer_what_there_is(run: Watched) -> None:
    offered = {
        variable["name"]: label_values(run.api, variable["query"]["query"], run.variables())
        for document in DASHBOARDS.values()
        for variable in document["templating"]["list"]
        if variable["type"] == "query"
    }
    assert offered == {"model": ["encoder"], "version": ["1"], "instance": [run.instance]}


def test_every_rule_is_evaluated_and_every_record_has_a_value(run: Watched) -> None:
    rules = [rule for group in run.api.ask("rules")["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    recorded = [rule for rule in rules if rule["type"] == "recording"]
    assert len(recorded) > 10
    for rule in recorded:
        assert numbers(whole(run, rule["name"])), rule["name"]


def test_every_alert_s_expression_returns_series(run: Watched) -> None:
    """With its comparisons answering 0 or 1: what it compares is there, whether or not something is amiss."""
    for alert in alerts(OBJECTIVES, run.clock):
        asked = COMPARISON.sub(r" \1 bool ", alert.expression)
        assert asked != alert.expression or alert.name == "LazyneuronTargetsMissing"
        assert numbers(whole(run, asked)), asked


def test_drift_fires_in_the_shifted_phase_and_only_there(run: Watched) -> None:
    shifted, overload = run.started["shifted"], run.started["overload"]
    fired = run.firing("LazyneuronDensityDrift")
    assert fired
    # The window of five minutes still holds shifted rows for that long, and rules are evaluated at each scrape.
    late = run.window("5m") + 4 * run.scrape
    assert overload + late < run.started["gone"], "the phase of overload was too short to tell"
    assert shifted + run.window("10m") <= fired[0]
    assert fired[-1] < overload + late
    assert any(shifted < when < overload for when in fired)


def test_drift_is_told_of_every_block(run: Watched) -> None:
    blocks = whole(run, 'ALERTS{alertname="LazyneuronDensityDrift", alertstate="firing"}')
    assert {series.labels["block"] for series in blocks} == {f"layers.{block}" for block in range(BLOCKS)}


def test_the_drift_panel_shows_the_shift_within_two_scrapes(run: Watched) -> None:
    [drift] = [expression for name, expression in QUERIES if ": Drift, last two scrapes" in name]
    scrapes = run.api.now(f"lazyneuron_repository_reachable[{run.started['end'] - run.started['empty']:.0f}s]")
    times = [when for series in scrapes for when, _ in series.points]
    before = [when for when in times if when < run.started["shifted"]]
    after = [when for when in times if when > run.flowing["shifted"]]
    asked = fill(drift, run.variables())
    band = OBJECTIVES.drift
    for block in range(BLOCKS):
        [calm] = numbers([s for s in run.api.now(asked, before[-1]) if s.labels["block"] == f"layers.{block}"])
        [seen] = numbers([s for s in run.api.now(asked, after[1]) if s.labels["block"] == f"layers.{block}"])
        assert 1 / band < calm < band
        assert seen > band


def test_the_other_alerts_fire_when_they_should(run: Watched) -> None:
    began = run.started
    fired = {alert.name: run.firing(alert.name) for alert in alerts(OBJECTIVES, run.clock)}
    for name, phase in {
        "LazyneuronTargetsMissing": "empty",
        "LazyneuronQueueSaturated": "overload",
        "LazyneuronErrorBudgetBurn": "overload",
        "LazyneuronTargetDown": "gone",
    }.items():
        assert fired[name], name
        assert began[phase] <= fired[name][0], name
        assert not [when for when in fired[name] if when < began[phase]], name
    assert fired["LazyneuronVersionFailedToLoad"]
    assert max(fired["LazyneuronTargetsMissing"]) < began["calm"] + 4 * run.scrape
    assert not fired["LazyneuronSavingsGone"]
    assert not fired["LazyneuronRepositoryUnreachable"]


def test_overload_lowered_budgets_and_refused(run: Watched) -> None:
    """So that what the panels of overload show was there to be shown."""
    assert min(numbers(whole(run, "lazyneuron_budget"))) < 1
    assert max(numbers(whole(run, 'lazyneuron_requests_refused_total{reason="queue_full"}'))) > 0


def test_the_dashboards_are_drawn_from_what_prometheus_has(run: Watched, tmp_path: Path) -> None:
    """By the command, which knows no phases, and whose steps are too wide for a run as short."""
    done = CliRunner().invoke(draw_command, ["--prometheus", run.api.url, "--minutes", "5", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(d["uid"] for d in DASHBOARDS.values())
    for path in tmp_path.iterdir():
        picture = Image.open(path).convert("RGB")
        assert picture.width > 1000
        colours = picture.getcolors()
        assert colours is not None, "as many as a photograph has"
        assert len(colours) > 10


def test_prometheus_s_reason_is_told(run: Watched) -> None:
    with pytest.raises(AskError, match=r"parse error.*asked query"):
        run.api.now("sum(")
    with pytest.raises(AskError, match="no answer of a Prometheus server"):
        Api("http://127.0.0.1:1").now("up")
    with pytest.raises(ValueError, match="expected label_values"):
        label_values(run.api, "up", {})
