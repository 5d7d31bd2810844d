"""tritonclient, unchanged. It brings its own messages of the package `inference`, so it runs in another process."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyneuron.engine.model import Model
from tests.support.environments import python_with
from tests.support.server import ServerProcess

PACKAGE = "tritonclient[grpc]==2.73.0"


@pytest.fixture(scope="module")
def seen(server: ServerProcess) -> dict[str, Any]:
    python = python_with("tritonclient", PACKAGE)
    script = Path(__file__).with_name("triton_script.py")
    done = subprocess.run([python, script, server.grpc], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_health(seen: dict[str, Any]) -> None:
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["absent_ready"]) == (True, True, True, False)


def test_metadata(seen: dict[str, Any]) -> None:
    assert seen["server"]["name"] == "lazyneuron"
    assert seen["metadata"]["name"] == "sequence"
    assert seen["metadata"]["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": ["-1", "-1", "16"]}
    assert {"name": "vector", "version": "1", "state": "READY"} in seen["index"]["models"]


def test_infer(seen: dict[str, Any], repository: Path) -> None:
    x = np.random.default_rng(7).normal(size=(2, 5, 16)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int64)
    expected = Model.load(repository / "sequence").predict({"x": x, "attention_mask": mask})
    assert np.array_equal(np.array(seen["y"], np.float32), expected.outputs["y"])
    assert seen["id"] == "one"
    assert seen["asynchronous_errors"] == []


def test_infer_on_text(seen: dict[str, Any], repository: Path) -> None:
    expected = Model.load(repository / "text").predict("lazy neurons save energy", budget=0.5)
    assert np.array_equal(np.array(seen["logits"], np.float32), expected.outputs["logits"])


def test_an_unknown_model(seen: dict[str, Any]) -> None:
    status, message = seen["refused"]
    assert status == "StatusCode.NOT_FOUND"
    assert message == "no model named 'nothing'; the server has: sequence, text, vector"
