"""What lies in deploy/, read for its tests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

WITHOUT_SCHEMA = {"PodMonitor"}
"""The operator's own kind: its JSON schema is in no package, its types are."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return a YAML file's documents."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]


def kustomization() -> dict[str, Any]:
    (document,) = read(KUBERNETES / "kustomization.yaml")
    return document


def resources() -> dict[str, dict[str, Any]]:
    """Return all that is applied, by `Kind/name`."""
    documents = [document for name in kustomization()["resources"] for document in read(KUBERNETES / name)]
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in documents}


def pod() -> dict[str, Any]:
    return resources()["Deployment/lazyneuron"]["spec"]["template"]["spec"]


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return only


def compose() -> dict[str, Any]:
    (document,) = read(DEPLOY / "compose.yaml")
    return document


def stage(name: str) -> dict[str, str]:
    """Return the last of each instruction of a stage of the Dockerfile."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    stages = re.split(r"^FROM \S+ AS ", text, flags=re.MULTILINE)[1:]
    (body,) = [each for each in stages if each.split("\n", 1)[0] == name]
    return dict(re.findall(r"^([A-Z]+) (.*)$", body, re.MULTILINE))


def entrypoint() -> list[str]:
    """Return what the serving image runs, before a container's arguments."""
    return json.loads(stage("serve")["ENTRYPOINT"])


def exposed() -> list[int]:
    return [int(port) for port in stage("serve")["EXPOSE"].split()]


def mappings(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Give every mapping in a document, with where it stands."""
    if isinstance(value, dict):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from mappings(inner, (*path, key))
