"""Compose: against its own schema, and against what it mounts and runs."""

import copy
import json
import re
import tomllib
from importlib import resources as package_files

import jsonschema
import pytest

from lazyneuron.server.config import ServerConfig
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY, compose

pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")


@pytest.fixture(scope="module")
def schema():
    path = package_files.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def test_the_schema_takes_it(schema):
    assert [error.message for error in schema.iter_errors(compose())] == []


def test_the_schema_refuses_a_misspelt_key_anywhere(schema):
    tried = 0
    for path, _ in manifests.mappings(compose()):
        if path in {("services",), ("volumes",)} or path[-1:] == ("environment",):
            continue  # names of the user's
        spoilt = copy.deepcopy(compose())
        part = spoilt
        for step in path:
            part = part[step]
        part["misspelt"] = "x"
        assert not schema.is_valid(spoilt), f"a key at {path} is not looked at"
        tried += 1
    assert tried >= 7


def mounts(service):
    """Return what a service mounts: target -> source."""
    found = {}
    for volume in compose()["services"][service]["volumes"]:
        if isinstance(volume, dict):
            found[volume["target"]] = volume["source"]
        else:
            source, target = volume.split(":")[:2]
            found[target] = source
    return found


@pytest.mark.parametrize("service", ["lazyneuron", "prometheus", "grafana"])
def test_what_is_mounted_is_there(service):
    for source in mounts(service).values():
        if source in compose()["volumes"]:
            continue
        default = re.sub(r"\$\{\w+:-(.*)\}", r"\1", source)
        assert default.startswith("."), source
        # The models are the user's.
        assert default == "../models" or (DEPLOY / default).exists(), source


def test_prometheus_finds_rules_targets_and_the_server():
    inside = mounts("prometheus")
    config = "/etc/prometheus/prometheus.yml"
    assert f"--config.file={config}" in compose()["services"]["prometheus"]["command"]
    (settings,) = manifests.read(DEPLOY / inside[config])
    for rules in settings["rule_files"]:
        assert f"/etc/prometheus/{rules}" in inside
    (job,) = settings["scrape_configs"]
    (pattern,) = [name for each in job["file_sd_configs"] for name in each["files"]]
    folder, glob = pattern.rsplit("/", 1)
    targets = [t for path in (DEPLOY / inside[f"/etc/prometheus/{folder}"]).glob(glob) for t in manifests.read(path)[0]]
    assert [target for each in targets for target in each["targets"]] == [f"lazyneuron:{ServerConfig().http_port}"]
    assert "lazyneuron" in compose()["services"]


def test_grafana_is_provisioned_with_the_source_and_the_dashboards():
    inside = mounts("grafana")
    provisioning = DEPLOY / inside["/etc/grafana/provisioning"]
    sources = [each for path in (provisioning / "datasources").glob("*.yaml") for each in manifests.read(path)]
    (source,) = [each for document in sources for each in document["datasources"]]
    port = re.search(r":(\d+)$", source["url"])
    assert source["url"].startswith("http://prometheus:")
    assert any(each.endswith(f":{port[1]}") for each in compose()["services"]["prometheus"]["ports"])
    providers = [each for path in (provisioning / "dashboards").glob("*.yaml") for each in manifests.read(path)]
    (provider,) = [each for document in providers for each in document["providers"]]
    dashboards = DEPLOY / inside[provider["options"]["path"]]
    home = compose()["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.rsplit("/", 1)[0] == provider["options"]["path"]
    assert (dashboards / home.rsplit("/", 1)[1]).is_file()


def test_nothing_is_published_beyond_the_machine():
    ports = [port for service in compose()["services"].values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    own = [int(port.rsplit(":", 1)[1]) for port in compose()["services"]["lazyneuron"]["ports"]]
    assert own == manifests.exposed() == [ServerConfig().grpc_port, ServerConfig().http_port]


def test_a_container_is_given_the_time_that_the_server_takes_to_drain():
    settings = ServerConfig.model_validate(tomllib.loads((DEPLOY / "compose" / "serve.toml").read_text()))
    given = re.fullmatch(r"(\d+)s", compose()["services"]["lazyneuron"]["stop_grace_period"])
    assert int(given[1]) >= settings.grace_seconds + 5


def test_grafana_is_the_one_that_the_dashboards_are_checked_against():
    pinned = json.loads((DEPLOY / "grafana" / "schema" / "package.json").read_text())["devDependencies"]
    assert compose()["services"]["grafana"]["image"] == f"grafana/grafana:{pinned['@grafana/schema']}"
