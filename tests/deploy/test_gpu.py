"""What is deployed for GPUs: the image's stage, and what the overlays change of Compose and Kubernetes."""

import copy
import json
import tomllib
from importlib import resources as package_files
from typing import Any

import jsonschema
import pytest

from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY, ROOT, compose, container, resources

OVERLAY = DEPLOY / "kubernetes-gpu"


def merged(base: Any, over: Any) -> Any:
    """Return what a strategic merge gives: maps by key, lists of named things by name, other values replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    if isinstance(base, list) and isinstance(over, list) and all("name" in each for each in over):
        named = {each["name"]: each for each in base}
        return list((named | {each["name"]: merged(named.get(each["name"], {}), each) for each in over}).values())
    return copy.deepcopy(over)


def patch() -> dict[str, Any]:
    (document,) = manifests.read(OVERLAY / "gpu.yaml")
    return document


def deployed() -> dict[str, Any]:
    return merged(resources()["Deployment/lazyneuron"], patch())


def test_the_stage_differs_from_the_serving_one_in_what_is_installed_alone():
    gpu, serve = manifests.stage("gpu"), manifests.stage("serve")
    assert {key for key in gpu.keys() | serve.keys() if gpu.get(key) != serve.get(key)} == {"RUN", "ENV"}
    assert "LAZYNEURON_DEVICE=cuda:0" in gpu["ENV"]


def test_the_cpu_s_runtime_is_taken_out_and_the_other_laid_down_again():
    steps = [step.strip() for step in manifests.stage("gpu")["RUN"].split("&&")]
    extra = next(step for step in steps if "[gpu," in step)
    after = steps[steps.index(extra) + 1 :]
    assert after[0] == "pip uninstall --yes onnxruntime"
    assert "--force-reinstall --no-deps onnxruntime-gpu" in after[1]


def test_the_extra_is_pinned_and_beside_the_cpu_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wheel,) = project["optional-dependencies"]["gpu"]
    assert wheel.startswith("onnxruntime-gpu[cuda,cudnn]>=")
    pinned = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("onnxruntime-gpu==")
    ]
    assert len(pinned) == 1
    least, exact = wheel.partition(">=")[2], pinned[0].partition("==")[2]
    assert [int(part) for part in exact.split(".")] >= [int(part) for part in least.split(".")]


def test_compose_with_a_gpu():
    path = package_files.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
    (overlay,) = manifests.read(DEPLOY / "compose.gpu.yaml")
    both = merged(compose(), overlay)
    assert [error.message for error in schema.iter_errors(both)] == []
    service = both["services"]["lazyneuron"]
    assert service["build"] == {"context": "..", "target": "gpu"}
    assert service["volumes"] == compose()["services"]["lazyneuron"]["volumes"]


@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
def test_the_schema_takes_the_deployment_with_a_gpu(version):
    validate = pytest.importorskip("kubernetes_validate").validate
    validate(deployed(), version, strict=True)


def test_a_pod_with_a_gpu_is_the_same_but_for_it():
    assert {**patch()["metadata"]} == {"name": "lazyneuron", "namespace": manifests.kustomization()["namespace"]}
    (only,) = deployed()["spec"]["template"]["spec"]["containers"]
    limits = only["resources"]["limits"]
    assert limits == {**container()["resources"]["limits"], "nvidia.com/gpu": 1}
    environment = {each["name"]: each for each in only["env"]}
    assert environment.pop("LAZYNEURON_DEVICE")["value"] == "cuda:0"
    assert environment == {each["name"]: each for each in container()["env"]}
    (document,) = manifests.read(OVERLAY / "kustomization.yaml")
    assert (OVERLAY / document["resources"][0]).resolve() == manifests.KUBERNETES
    assert [each["path"] for each in document["patches"]] == ["gpu.yaml"]
    assert document["images"][0]["name"] == container()["image"]
