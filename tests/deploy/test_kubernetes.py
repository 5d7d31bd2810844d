"""The Kubernetes manifests: against the API's schemas, and against the server that they run."""

import copy
import json
import re
import shutil
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml

from lazyneuron.server.config import ServerConfig
from tests.deploy import manifests
from tests.deploy.manifests import KUBERNETES, container, kustomization, pod, resources
from tests.support.artifacts import write_text_classifier
from tests.support.server import serving

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

VERSIONS = ["1.30.0", "1.37.0"]  # the first with preStop's sleep; the last that the package carries
# Mappings whose keys are the user's.
FREE = {"labels", "matchLabels", "annotations", "limits", "requests"}


def refusal(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error.message
    return None


def described():
    return {name: each for name, each in resources().items() if each["kind"] not in manifests.WITHOUT_SCHEMA}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_take_every_manifest(version):
    assert {name: refusal(each, version) for name, each in described().items()} == dict.fromkeys(described())


def test_the_schemas_refuse_a_misspelt_key_anywhere():
    tried = 0
    for name, document in described().items():
        for path, _ in manifests.mappings(document):
            if path and (path[-1] in FREE or (document["kind"], path[-1]) == ("Service", "selector")):
                continue
            spoilt = copy.deepcopy(document)
            part = spoilt
            for step in path:
                part = part[step]
            part["misspelt"] = "x"
            assert refusal(spoilt, VERSIONS[-1]) is not None, f"{name}: a key at {path} is not looked at"
            tried += 1
    assert tried > 50


@pytest.fixture(scope="module")
def operators_types(request):
    """Return a folder with the Prometheus operator's types and TypeScript, in the versions that are pinned."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here: install Node.js 20 or newer, with npm")
    pinned, built = Path(__file__).parent / "podmonitor", request.config.rootpath / "build" / "podmonitor"
    done, lock = built / "node_modules" / ".lock", (pinned / "package-lock.json").read_text()
    if not (done.is_file() and done.read_text() == lock):
        built.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(pinned / name, built)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        ran = subprocess.run(command, cwd=built, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            pytest.skip(f"npm cannot fetch @kubernetes-models/prometheus-operator: {ran.stderr.strip()[-200:]}")
        done.write_text(lock)
    return built


def test_the_podmonitor_is_of_the_operators_type(operators_types):
    monitor = resources()["PodMonitor/lazyneuron"]
    spoilt = [copy.deepcopy(monitor) for _ in range(3)]
    spoilt[0]["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    spoilt[1]["spec"]["jobLabels"] = "x"
    spoilt[2]["spec"]["podMetricsEndpoints"][0]["path"] = 1
    module = "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor"
    lines = [f"import type {{ IPodMonitor }} from '{module}';"]
    lines += [f"export const m{i}: IPodMonitor = {json.dumps(each)};" for i, each in enumerate([monitor, *spoilt])]
    (operators_types / "checked.ts").write_text("\n".join(lines))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext"]
    command = ["npx", "--no-install", "tsc", *options, "checked.ts"]
    ran = subprocess.run(command, cwd=operators_types, capture_output=True, text=True, timeout=300, check=False)
    assert re.findall(r"^checked.ts\((\d+),", ran.stdout, re.MULTILINE) == ["3", "4", "5"], ran.stdout


def test_the_kustomization_has_the_keys_that_it_may_have():
    assert set(kustomization()) == {
        *("apiVersion", "kind", "namespace", "resources", "configMapGenerator", "labels", "images"),
    }


def test_every_file_is_applied_or_said_not_to_be():
    used = {*kustomization()["resources"], "kustomization.yaml", "adapter-rules.yaml", "serve.toml"}
    assert used == {path.name for path in KUBERNETES.iterdir()}


def test_what_selects_pods_selects_ours():
    every = resources()
    labels = every["Deployment/lazyneuron"]["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        every["Deployment/lazyneuron"]["spec"]["selector"]["matchLabels"],
        every["Service/lazyneuron"]["spec"]["selector"],
        every["Service/lazyneuron-pods"]["spec"]["selector"],
        every["PodMonitor/lazyneuron"]["spec"]["selector"]["matchLabels"],
        every["PodDisruptionBudget/lazyneuron"]["spec"]["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod()["topologySpreadConstraints"]),
    ]
    assert [bool(selector) and selector.items() <= labels for selector in selectors] == [True] * len(selectors)
    target = every["HorizontalPodAutoscaler/lazyneuron"]["spec"]["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in every
    (models,) = [volume for volume in pod()["volumes"] if volume["name"] == "models"]
    assert f"PersistentVolumeClaim/{models['persistentVolumeClaim']['claimName']}" in every
    (settings,) = [volume for volume in pod()["volumes"] if volume["name"] == "settings"]
    assert settings["configMap"]["name"] in [made["name"] for made in kustomization()["configMapGenerator"]]
    mounts = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod()["volumes"]}


def test_ports_are_the_servers():
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": ServerConfig().grpc_port, "http": ServerConfig().http_port}
    assert sorted(ports.values()) == manifests.exposed()
    for name in ("Service/lazyneuron", "Service/lazyneuron-pods"):
        for port in resources()[name]["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for endpoint in resources()["PodMonitor/lazyneuron"]["spec"]["podMetricsEndpoints"]:
        assert endpoint["port"] in ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["port"] == "http"


def test_a_pod_is_given_the_time_that_the_server_takes_to_drain():
    settings = ServerConfig.model_validate(tomllib.loads((KUBERNETES / "serve.toml").read_text()))
    before = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + settings.grace_seconds + 5 <= pod()["terminationGracePeriodSeconds"]


def test_it_runs_as_the_images_user_and_writes_nothing_but_scratch():
    user = int(manifests.stage("serve")["USER"])
    assert pod()["securityContext"]["runAsUser"] == user > 0
    assert pod()["securityContext"]["runAsNonRoot"] is True
    own = container()["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"]["drop"] == ["ALL"]
    writable = [mount["name"] for mount in container()["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["scratch"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kubernetes")
    write_text_classifier(folder / "models")
    with serving(folder / "models", folder / "log", (KUBERNETES / "serve.toml").read_text()) as running:
        yield running


def test_probes_and_scrapes_find_what_they_ask_for(server):
    probes = [container()[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    endpoints = resources()["PodMonitor/lazyneuron"]["spec"]["podMetricsEndpoints"]
    for path in [*(probe["path"] for probe in probes), *(endpoint["path"] for endpoint in endpoints)]:
        with urllib.request.urlopen(f"http://{server.http}{path}", timeout=10) as answer:
            assert answer.status == 200


def rule():
    (only,) = manifests.read(KUBERNETES / "adapter-rules.yaml")[0]["rules"]
    return only


def test_the_autoscalers_metric_is_made_of_the_servers(server):
    (metric,) = resources()["HorizontalPodAutoscaler/lazyneuron"]["spec"]["metrics"]
    assert rule()["name"]["as"] == metric["pods"]["metric"]["name"]
    named = set(re.findall(r"\blazyneuron_\w+", rule()["seriesQuery"] + rule()["metricsQuery"]))
    served = {name for name, _ in server.metrics()}
    assert named
    assert named <= served
    series = rule()["seriesQuery"].split("{")[0]
    assert re.fullmatch(rule()["name"]["matches"], series)


def test_the_adapters_query_is_a_query(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    query = rule()["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="lazyneuron",pod=~"a|b"')
    assert "<<" not in query
    fill = [
        {
            "series": f'lazyneuron_queue_{what}{{namespace="lazyneuron",pod="{pod}",model="{model}",version="1"}}',
            "values": f"{value}x5",
        }
        for what, pod, model, value in [
            ("tokens", "a", "m", 10),
            ("limit_tokens", "a", "m", 100),
            ("tokens", "a", "n", 30),
            ("limit_tokens", "a", "n", 100),
            ("tokens", "b", "m", 0),
            ("limit_tokens", "b", "m", 100),
        ]
    ]
    samples = [{"labels": '{pod="a"}', "value": 0.3}, {"labels": '{pod="b"}', "value": 0}]
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "30s",
                "input_series": fill,
                "promql_expr_test": [{"expr": query, "eval_time": "2m", "exp_samples": samples}],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    command = ["promtool", "test", "rules", str(tmp_path / "test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
