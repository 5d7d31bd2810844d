"""The command line of the image, with the arguments and environments that it is run with."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lazyneuron.server.config import ServerConfig
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY, KUBERNETES, compose, container, entrypoint


def printed(command, settings: Path, environment=None):
    """Run a command line as it is, but for where its file of settings lies; return the settings."""
    assert command[0] == "lazyneuron"
    arguments = [str(settings) if part == "/etc/lazyneuron/serve.toml" else part for part in command[1:]]
    assert str(settings) in arguments or "--config" not in arguments
    done = subprocess.run(
        [sys.executable, "-m", "lazyneuron", *arguments, "--print-config"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr
    return ServerConfig.model_validate(tomllib.loads(done.stdout))


@pytest.fixture
def nothing(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text("")
    return path


def test_the_image_alone(nothing):
    settings = printed(entrypoint(), nothing)
    assert (settings.host, [settings.grpc_port, settings.http_port]) == ("0.0.0.0", manifests.exposed())


def test_in_kubernetes():
    # limits.cpu, as the kubelet fills it in
    given = {
        each["name"]: each.get("value") or container()["resources"]["limits"]["cpu"] for each in container()["env"]
    }
    settings = printed([*entrypoint(), *container()["args"]], KUBERNETES / "serve.toml", given)
    assert settings.threads == int(container()["resources"]["limits"]["cpu"])
    assert (settings.repository.watch, settings.log.format) == ("poll", "json")


def test_in_compose():
    service = compose()["services"]["lazyneuron"]
    settings = printed([*entrypoint(), *service["command"]], DEPLOY / "compose" / "serve.toml", service["environment"])
    assert settings == ServerConfig(host="0.0.0.0")


def test_the_unit(nothing):
    text = (DEPLOY / "lazyneuron.service").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    command = shlex.split(line.removeprefix("ExecStart="))
    assert command[0] == "/usr/bin/env"
    assert printed(command[1:], nothing) == ServerConfig()


def test_models_are_mounted_where_the_image_looks():
    where = entrypoint()[2]
    assert where == manifests.stage("serve")["VOLUME"]
    assert where in [mount["mountPath"] for mount in container()["volumeMounts"]]
    assert where in [volume["target"] for volume in compose()["services"]["lazyneuron"]["volumes"]]
