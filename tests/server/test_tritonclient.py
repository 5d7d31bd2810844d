"""tritonclient, unchanged. It brings its own messages of the package `inference`, so it runs in another process."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from lazyneuron.engine.model import Model
from lazyneuron.protocol import model_config_pb2, open_inference_pb2
from tests.support.environments import python_with
from tests.support.server import ServerProcess

PACKAGE = "tritonclient[grpc,http]==2.73.0"
SYNCHRONOUS = ["grpc", "http"]
CLIENTS = ["grpc", "http", "grpc_aio", "http_aio"]

X = np.random.default_rng(7).normal(size=(2, 5, 16)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int64)
CHANGE = "settings cannot be changed while the server runs"


@pytest.fixture(scope="module")
def seen(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    python = python_with("tritonclient", PACKAGE)
    descriptors = tmp_path_factory.mktemp("descriptors") / "set"
    files = descriptor_pb2.FileDescriptorSet()
    for module in (model_config_pb2, open_inference_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    descriptors.write_bytes(files.SerializeToString())
    script = Path(__file__).with_name("triton_script.py")
    command = [python, script, server.grpc, server.http, descriptors]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def y(repository: Path) -> np.ndarray:
    return Model.load(repository / "sequence").predict({"x": X, "attention_mask": MASK}).outputs["y"]


def same(got: list[Any], expected: np.ndarray) -> bool:
    """Whether they are equal but for the order of sums: a batch of several may take another."""
    return np.allclose(np.array(got, np.float32), expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_our_messages_are_tritons(seen: dict[str, Any]) -> None:
    assert seen["differences"] == []


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_health(seen: dict[str, Any], client: str) -> None:
    found = [seen[client][key] for key in ("live", "ready", "model_ready", "absent_ready")]
    assert found == [True, True, True, False]


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_metadata(seen: dict[str, Any], client: str) -> None:
    assert seen[client]["server"]["name"] == "lazyneuron"
    assert {"statistics", "model_configuration", "model_repository"} <= set(seen[client]["server"]["extensions"])
    metadata = seen[client]["metadata"]
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("sequence", ["1"], "onnxruntime_onnx")
    x = metadata["inputs"][0]
    assert (x["name"], x["datatype"], [int(n) for n in x["shape"]]) == ("x", "FP32", [-1, -1, 16])


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_index(seen: dict[str, Any], client: str) -> None:
    index = seen[client]["index"]
    states = {m["name"]: m["state"] for m in (index["models"] if client == "grpc" else index)}
    assert (states["vector"], states["broken"]) == ("READY", "UNAVAILABLE")


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_config(seen: dict[str, Any], client: str) -> None:
    config = seen[client]["config"] if client == "http" else seen[client]["config"]["config"]
    assert config["max_batch_size"] == 64
    assert [(i["name"], i["data_type"], [int(n) for n in i["dims"]]) for i in config["input"]] == [
        ("x", "TYPE_FP32", [-1, 16]),
        ("attention_mask", "TYPE_INT64", [-1]),
    ]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_statistics_move(seen: dict[str, Any], client: str) -> None:
    before, after = (_sums(seen[client][key]) for key in ("before", "after"))
    assert after["examples"] == before["examples"] + 2  # one request with two
    for key in ("executions", "success", "queue", "compute_infer"):
        assert after[key] == before[key] + 1
    assert {m["name"] for m in seen[client]["all_statistics"]["model_stats"]} == {"sequence", "text", "vector"}


def _sums(statistics: dict[str, Any]) -> dict[str, int]:
    """tritonclient's JSON leaves out what is 0, and has 64-bit numbers as text."""
    (model,) = statistics["model_stats"]
    counts = {key: int(value.get("count", 0)) for key, value in model.get("inference_stats", {}).items()}
    none = dict.fromkeys(("success", "queue", "compute_infer"), 0)
    examples, executions = int(model.get("inference_count", 0)), int(model.get("execution_count", 0))
    return none | counts | {"examples": examples, "executions": executions}


@pytest.mark.parametrize("client", CLIENTS)
def test_infer(seen: dict[str, Any], client: str, y: np.ndarray) -> None:
    assert same(seen[client]["y"], y)


def test_infer_over_http_in_json_and_compressed(seen: dict[str, Any], y: np.ndarray) -> None:
    assert same(seen["http"]["json"], y)
    assert same(seen["http"]["compressed"]["gzip"], y)
    assert same(seen["http"]["compressed"]["deflate"], y)
    assert same(seen["http"]["with_timeout"], y)


def test_many_at_once(seen: dict[str, Any]) -> None:
    assert seen["grpc"]["id"] == "one"
    assert seen["grpc"]["asynchronous_errors"] == []
    assert seen["http"]["ids"] == [str(index) for index in range(20)]


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_infer_on_text(seen: dict[str, Any], repository: Path, client: str) -> None:
    model = Model.load(repository / "text")
    expected = model.predict("lazy neurons save energy", budget=0.5).outputs["logits"]
    assert same(seen[client]["logits"], expected)
    logits = model.predict("lazy neurons save energy").outputs["logits"][0]
    best = np.argsort(-logits)[:2]
    assert [name.split(":")[1:] for name in seen[client]["classes"]] == [[str(i), f"class {i}"] for i in best]
    assert [float(name.split(":")[0]) for name in seen[client]["classes"]] == pytest.approx(logits[best], abs=1e-5)


def test_a_stream_answers_in_order_and_survives_errors(seen: dict[str, Any]) -> None:
    message = "no model named 'nothing'; the server has: sequence, text, vector"
    assert seen["grpc"]["stream"] == [["error", message] if i % 3 == 2 else [str(i), True] for i in range(30)]
    assert seen["grpc_aio"]["stream"] == [str(index) for index in range(10)]


@pytest.mark.parametrize("client", SYNCHRONOUS)
def test_settings_are_read_only(seen: dict[str, Any], client: str) -> None:
    log = seen[client]["log"]
    assert log["log_info"] is True if client == "http" else log["settings"]["log_info"]["bool_param"] is True
    trace = seen[client]["trace"]
    assert (trace if client == "http" else trace["settings"]["trace_level"]["value"]) is not None


REFUSALS = {
    "model": ("NOT_FOUND", "404", "no model named 'nothing'"),
    "datatype": ("INVALID_ARGUMENT", "400", "input 'x': got datatype FP16; expected FP32"),
    "trace": ("UNIMPLEMENTED", "501", f"trace {CHANGE}"),
    "log": ("UNIMPLEMENTED", "501", f"log {CHANGE}"),
    "system": ("UNIMPLEMENTED", "501", "this server has no shared memory"),
    "cuda": ("UNIMPLEMENTED", "501", "this server has no shared memory"),
    "load": ("NOT_FOUND", "404", "nothing"),
}


@pytest.mark.parametrize("client", SYNCHRONOUS)
@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals(seen: dict[str, Any], client: str, kind: str) -> None:
    grpc_status, http_status, words = REFUSALS[kind]
    status, message = seen[client]["refused"][kind]
    assert status == (f"StatusCode.{grpc_status}" if client == "grpc" else http_status)
    assert words in message
