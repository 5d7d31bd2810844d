"""The rules: Prometheus's own tool takes them, its unit tests pass, and each alert has its runbook."""

import json
import re
import subprocess
from pathlib import Path

import grpc
import pytest
import yaml
from click.testing import CliRunner

from deploy.monitoring.__main__ import main
from deploy.monitoring.queries import NO_ROOM, SERVER_FAULTS
from deploy.monitoring.records import Clock, Objectives
from deploy.monitoring.rules import RUNBOOKS, alerts, rule_file
from lazyneuron.engine.errors import REFUSALS
from lazyneuron.server.config import ClientsConfig, ServerConfig
from lazyneuron.server.layers import fields
from lazyneuron.server.series import SECONDS
from tests.support.prometheus import require

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = alerts(Objectives(), Clock())


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([require("promtool"), *arguments], capture_output=True, text=True, timeout=200, check=False)


def test_promtool_takes_the_configuration_with_its_rules() -> None:
    done = promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(yaml.safe_load(rule_file())['groups'])} " not in done.stderr
    assert re.search(r"\d\d rules found", done.stdout)


@pytest.mark.parametrize("objectives", [Objectives(latency_seconds=1.0, success=0.5, drift=10.0), Objectives()])
def test_promtool_takes_the_rules_of_any_objectives_and_scale(tmp_path: Path, objectives: Objectives) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rule_file(objectives, Clock(0.01)))
    done = promtool("check", "rules", "--lint-fatal", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_tests_of_the_rules_pass() -> None:
    done = promtool("test", "rules", str(FOLDER / "lazyneuron.rules.test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("part", "others"),
    [
        ("denser or sparser", [Objectives(drift=2.5), Objectives(drift=1.3)]),
        ("denser or sparser", [Objectives(drift_least=0.001), Objectives(drift_rows=100)]),
        ("nothing is saved", [Objectives(saved=0.01), Objectives(saved=0.5)]),
        ("error budget", [Objectives(success=0.99), Objectives(success=0.9999)]),
        ("are slow", [Objectives(latency=0.9), Objectives(latency=0.999)]),
        ("queue is full", [Objectives(queue_fill=0.95), Objectives(refused=0.2)]),
    ],
)
def test_the_unit_tests_fail_on_other_rules(tmp_path: Path, part: str, others: list[Objectives]) -> None:
    document = yaml.safe_load((FOLDER / "lazyneuron.rules.test.yaml").read_text())
    [document["tests"]] = [[test] for test in document["tests"] if part in test["name"]]
    document["rule_files"] = ["rules.yaml"]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    for objectives in (Objectives(), *others):
        (tmp_path / "rules.yaml").write_text(rule_file(objectives))
        done = promtool("test", "rules", str(tmp_path / "tests.yaml"))
        assert (done.returncode == 0) == (objectives == Objectives()), done.stdout + done.stderr


def test_each_alert_is_tested_both_ways() -> None:
    cases = yaml.safe_load((FOLDER / "lazyneuron.rules.test.yaml").read_text())["tests"]
    seen = {(case["alertname"], bool(case["exp_alerts"])) for test in cases for case in test["alert_rule_test"]}
    assert seen == {(alert.name, fires) for alert in ALERTS for fires in (True, False)}


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    names = {alert.name for alert in ALERTS}
    assert {path.stem for path in (ROOT / RUNBOOKS).glob("*.md")} == names
    for alert in ALERTS:
        page = ROOT / alert.as_rule()["annotations"]["runbook_url"]
        text = page.read_text()
        assert text.startswith(f"# {alert.name}\n")
        assert "**Look.**" in text
        assert "**Do" in text


def test_the_runbooks_name_what_there_is() -> None:
    known = set(fields(ServerConfig))
    dashboards = [json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")]
    shown = {d["title"].removeprefix("lazyneuron / ") for d in dashboards}
    shown |= {panel["title"] for d in dashboards for panel in d["panels"]}
    for path in (ROOT / RUNBOOKS).glob("*.md"):
        text = path.read_text()
        sections = "tls|auth|http|log|queue|repository|tracing|batching|clients|budget"
        assert set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", text)) <= known, path.name
        for linked in re.findall(r"\]\((\w+\.md)\)", text):
            assert (ROOT / RUNBOOKS / linked).is_file(), f"{path.name}: {linked}"
        for named in re.findall(r"(?<!\*)\*([A-Z][^*\n]+(?:\n[^*\n]+)?)\*(?!\*)", text):
            title = " ".join(named.split())
            others = {"Critical", "Warning", "Targets", "Service discovery"}
            assert any(name.startswith(title) for name in shown) or title in others, f"{path.name}: {title}"


def test_what_the_rules_name_the_server_has() -> None:
    assert set(SERVER_FAULTS) <= {code.name for code in grpc.StatusCode}
    assert set(re.findall(r"queue_\w+", NO_ROOM)) <= set(REFUSALS)
    assert "client_limit" in REFUSALS
    assert Objectives().queue_fill < ClientsConfig().queue_share, "one client alone could never be seen to fill a queue"


def test_the_latency_objective_is_the_bound_of_a_bucket() -> None:
    choices = next(option for option in main.params if option.name == "latency_seconds").type.to_info_dict()["choices"]
    assert {float(choice) for choice in choices} <= set(SECONDS)
    assert Objectives().latency_seconds in SECONDS


def test_objectives_are_taken_from_the_command(tmp_path: Path) -> None:
    flags = ["--latency-seconds", "2.5", "--success", "0.99", "--saved", "0.2", "--runbooks", "https://example.org/"]
    assert CliRunner().invoke(main, ["--output", str(tmp_path), *flags]).exit_code == 0
    text = (tmp_path / "prometheus" / "lazyneuron.rules.yaml").read_text()
    assert 'le="2.5"' in text
    assert "ratio_rate1h > 0.144\n" in text
    assert "saved:ratio_rate5m < 0.2\n" in text
    assert "runbook_url: https://example.org/LazyneuronTargetDown.md\n" in text


@pytest.mark.parametrize(("flag", "value"), [("--success", "1"), ("--latency-seconds", "0.3"), ("--drift", "0.5")])
def test_an_objective_that_cannot_be_is_refused(flag: str, value: str) -> None:
    done = CliRunner().invoke(main, ["--check", flag, value])
    assert done.exit_code == 2
    assert f"Invalid value for '{flag}'" in done.output


def test_minutes_are_scaled() -> None:
    assert Clock(0.01)("5m") == "3000ms"
    assert Clock()("5m") == "5m"
    with pytest.raises(ValueError, match="a duration: got '5 minutes'; expected a whole number"):
        Clock()("5 minutes")
