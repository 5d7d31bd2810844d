"""The dashboards, as far as they can be judged without Grafana and without Prometheus."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deploy.monitoring import drawing, typecheck
from deploy.monitoring.__main__ import documents, main
from deploy.monitoring.asking import fill, panels
from deploy.monitoring.keys import UnknownKeyError, refuse_unknown_keys, unknown_keys
from deploy.monitoring.records import Clock, Objectives, records
from lazyneuron.server.metrics import Metrics

DASHBOARDS = {
    Path(name).stem: json.loads(text) for name, text in documents().items() if name.startswith("grafana/dashboards/")
}
ROOT = Path(__file__).parents[2]

Keys = tuple[str | int, ...]


def test_the_files_are_as_they_are_written() -> None:
    done = CliRunner().invoke(main, ["--check"])
    assert (done.exit_code, done.output) == (0, "")


def test_a_stale_file_is_named(tmp_path: Path) -> None:
    run = CliRunner()
    assert run.invoke(main, ["--output", str(tmp_path)]).exit_code == 0
    assert run.invoke(main, ["--output", str(tmp_path), "--check"]).exit_code == 0
    # Other objectives give other files, the dashboards' bounds among them.
    done = run.invoke(main, ["--output", str(tmp_path), "--check", "--drift", "2"])
    assert done.exit_code == 1
    assert re.search(r"not as .* writes them: \S+rules.yaml, \S+lazyneuron-sparsity.json\n$", done.output)
    (tmp_path / "grafana/dashboards/lazyneuron-capacity.json").unlink()
    assert "lazyneuron-capacity.json" in run.invoke(main, ["--output", str(tmp_path), "--check"]).output


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "prometheus").write_text("a file")
    done = CliRunner().invoke(main, ["--output", str(tmp_path)])
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: \S+rules.yaml: cannot be written: .*\n", done.output)


def test_drawing_without_prometheus_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(drawing.main, ["--prometheus", "http://127.0.0.1:1", str(tmp_path)])
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: http://127\.0\.0\.1:1: no answer of a Prometheus server \(.*\)\n", done.output)
    assert not list(tmp_path.iterdir())


def test_there_are_the_three_that_are_linked_to_each_other() -> None:
    assert set(DASHBOARDS) == {"lazyneuron-overview", "lazyneuron-sparsity", "lazyneuron-capacity"}
    for uid, document in DASHBOARDS.items():
        assert document["uid"] == uid
        assert {link["url"] for link in document["links"]} == {f"/d/{other}" for other in DASHBOARDS if other != uid}
        assert {variable["name"] for variable in document["templating"]["list"]} >= {"model", "version", "instance"}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    for document in DASHBOARDS.values():
        numbers = [panel["id"] for panel in document["panels"]]
        assert len(set(numbers)) == len(numbers)
        taken: set[tuple[int, int]] = set()
        for panel in document["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells


def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source() -> None:
    for document in DASHBOARDS.values():
        for panel in document["panels"]:
            if panel["type"] == "row":
                continue
            assert panel["title"]
            assert panel["description"].endswith((".", ")"))
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]


def test_only_variables_that_there_are_stand_in_expressions() -> None:
    for document in DASHBOARDS.values():
        known = {variable["name"]: "1" for variable in document["templating"]["list"]} | {"__rate_interval": "1m"}
        for panel in panels(document):
            for expression, _ in panel.queries:
                assert "$" not in fill(expression, known)


def test_only_metrics_that_the_server_has_stand_in_expressions() -> None:
    shown: set[str] = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        shown |= {family.name + suffix for suffix in suffixes}
    known = shown | {record.name for record in records(Objectives(), Clock())}
    expressions = [record.expression for record in records(Objectives(), Clock())]
    expressions += [expression for d in DASHBOARDS.values() for panel in panels(d) for expression, _ in panel.queries]
    named = {name for expression in expressions for name in re.findall(r"[\w:]*lazyneuron_[\w:]+", expression)}
    assert len(named) > 30
    assert named <= known


def keys(document: Any, path: Keys = ()) -> Iterator[Keys]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield (*path, key)
            yield from keys(value, (*path, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from keys(value, (*path, number))


def small(document: dict[str, Any]) -> dict[str, Any]:
    """Leave one panel of each kind, one of each kind with overrides, one variable of each kind, and one link."""
    kinds = {
        (panel["type"], bool(panel.get("fieldConfig", {}).get("overrides"))): panel for panel in document["panels"]
    }
    variables = {variable["type"]: variable for variable in document["templating"]["list"]}
    templating = {"list": list(variables.values())}
    return {**document, "panels": list(kinds.values()), "templating": templating, "links": document["links"][:1]}


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_any_key_that_is_misspelt_is_refused(uid: str) -> None:
    whole = small(DASHBOARDS[uid])
    assert not list(unknown_keys(whole))
    tried = 0
    for path in keys(whole):
        document = copy.deepcopy(whole)
        part: Any = document
        for key in path[:-1]:
            part = part[key]
        if isinstance(part, dict):
            part[f"{path[-1]}x"] = part.pop(path[-1])
            assert list(unknown_keys(document)), path
            tried += 1
    assert tried > 100


def test_the_misspelt_keys_are_named_by_their_paths() -> None:
    document = copy.deepcopy(DASHBOARDS["lazyneuron-sparsity"])
    panel = document["panels"][1]
    assert panel["type"] == "timeseries"
    panel["options"]["legend"]["showLegnd"] = True
    panel["fieldConfig"]["overrides"][0]["properties"][0]["id"] = "custom.lineStile"
    with pytest.raises(UnknownKeyError) as caught:
        refuse_unknown_keys(json.dumps(document))
    assert "panels[1].options.legend.showLegnd" in str(caught.value)
    assert "panels[1].fieldConfig.overrides custom.lineStile" in str(caught.value)


def test_provisioning_finds_the_dashboards_and_the_data_source() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    [provider] = yaml.safe_load((folder / "dashboards" / "lazyneuron.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/var/lib/grafana/")


@pytest.fixture(scope="module")
def _packages() -> None:
    try:
        typecheck.install()
    except typecheck.NotAvailableError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_packages")
def test_grafana_s_own_types_take_them() -> None:
    assert typecheck.check(DASHBOARDS) == ""


@pytest.mark.usefixtures("_packages")
def test_grafana_s_own_types_refuse_what_is_wrong() -> None:
    wrong: list[tuple[Keys, object, str]] = [
        (("refresh",), 30, "Type 'number' is not assignable to type 'string"),
        (("panels", 1, "gridPos", "w"), "3", "Type 'string' is not assignable to type 'number'"),
        (("panels", 1, "options", "graphMode"), "aera", '"aera"'),
        (("panels", 1, "options", "graphMod"), "area", "'\"graphMod\"' does not exist"),
        (("templating", "list", 0, "typ"), "query", "'\"typ\"' does not exist"),
    ]
    documents = {}
    for number, (path, value, _) in enumerate(wrong):
        documents[f"wrong{number}"] = part = copy.deepcopy(DASHBOARDS["lazyneuron-overview"])
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
    found = typecheck.check(documents)
    for number, (path, _, expected) in enumerate(wrong):
        assert re.search(rf"wrong{number}\.ts.*{re.escape(expected)}", found), (path, found)


@pytest.mark.usefixtures("_packages")
def test_a_kind_of_panel_whose_types_are_not_known_is_refused() -> None:
    document = {"panels": [{"type": "news", "title": "News"}]}
    with pytest.raises(ValueError, match="panel 'News': of kind 'news'; expected one of bargauge"):
        typecheck.check({"news": document})


def test_without_node_the_types_are_not_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(typecheck.NotAvailableError, match=r"npm is not here: install Node\.js"):
        typecheck.install()
