"""The Open Inference Protocol over HTTP, as `curl` and any HTTP library speak it."""

import gzip
import http.client
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lazyneuron.engine.model import Model
from lazyneuron.server.config import RestConfig, ServerConfig
from lazyneuron.server.http import http_app
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.rest.context import Face
from lazyneuron.server.rest.routes import rest_routes
from lazyneuron.server.tensors import DATATYPES
from tests.support.rest import HttpAnswer, ask
from tests.support.server import ServerProcess, serving, until

X = np.random.default_rng(4).normal(size=(3, 16)).astype(np.float32)
TENSOR: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [3, 16]}
BODY = {"inputs": [TENSOR | {"data": X.tolist()}]}


def post(server: ServerProcess, path: str, body: object = None, **headers: str) -> HttpAnswer:
    return ask(server.http, "POST", path, body, **headers)


def get(server: ServerProcess, path: str) -> HttpAnswer:
    return ask(server.http, "GET", path)


@pytest.fixture(scope="module")
def logits(repository: Path) -> np.ndarray:
    return Model.load(repository / "vector").predict({"x": X}).outputs["logits"]


def test_health(server: ServerProcess) -> None:
    assert get(server, "/v2/health/live").json == {"live": True}
    assert get(server, "/v2/health/ready").json == {"ready": True}
    assert get(server, "/v2/models/vector/ready").status == 200
    assert get(server, "/v2/models/vector/versions/1/ready").json == {"name": "vector", "ready": True}
    assert get(server, "/v2/models/vector/versions/2/ready").status == 503
    assert get(server, "/v2/models/broken/ready").status == 503


def test_metadata_and_configuration(server: ServerProcess) -> None:
    about = get(server, "/v2").json
    assert about["name"] == "lazyneuron"
    assert "binary_tensor_data" in about["extensions"]
    for path in ("/v2/models/sequence", "/v2/models/sequence/versions/1"):
        metadata = get(server, path).json
        assert (metadata["name"], metadata["versions"], metadata["platform"]) == (
            "sequence", ["1"], "onnxruntime_onnx",
        )  # fmt: skip
        assert metadata["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, -1, 16]}
        config = get(server, f"{path}/config").json
        assert config["input"][0]["dims"] == [-1, 16]
        assert config["version_policy"] == {"specific": {"versions": [1]}}


def test_statistics_move(server: ServerProcess) -> None:
    def count() -> int:
        (stats,) = get(server, "/v2/models/vector/stats").json["model_stats"]
        assert isinstance(stats["inference_stats"]["success"]["ns"], int)
        found: int = stats["inference_count"]
        return found

    before = count()
    assert post(server, "/v2/models/vector/infer", BODY).status == 200
    assert count() == before + 3
    assert {m["name"] for m in get(server, "/v2/models/stats").json["model_stats"]} == {"sequence", "text", "vector"}


def test_infer_in_json(server: ServerProcess, logits: np.ndarray) -> None:
    nested = post(server, "/v2/models/vector/infer", BODY | {"id": "mine"})
    flat = post(server, "/v2/models/vector/versions/1/infer", {"inputs": [TENSOR | {"data": X.ravel().tolist()}]})
    assert nested.headers["content-type"] == "application/json"
    assert (nested.json["id"], nested.json["model_name"], nested.json["model_version"]) == ("mine", "vector", "1")
    (output,) = nested.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 3])
    assert np.array(output["data"], np.float32).reshape(3, 3).tolist() == logits.tolist()
    assert flat.json["outputs"] == nested.json["outputs"]
    assert 0 < nested.json["parameters"]["flops_executed"] < nested.json["parameters"]["flops_dense"]


def binary_body(extra: dict[str, Any]) -> tuple[bytes, str]:
    size = {"parameters": {"binary_data_size": X.nbytes}}
    json_part = json.dumps({"inputs": [TENSOR | size]} | extra).encode()
    return json_part + X.tobytes(), str(len(json_part))


@pytest.mark.parametrize("how", [{"parameters": {"binary_data_output": True}},
                                 {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}])  # fmt: skip
def test_infer_in_binary(server: ServerProcess, logits: np.ndarray, how: dict[str, Any]) -> None:
    body, length = binary_body(how)
    answer = post(server, "/v2/models/vector/infer", body, inference_header_content_length=length)
    assert answer.headers["content-type"] == "application/octet-stream"
    split = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.body[:split])["outputs"]
    assert output["parameters"]["binary_data_size"] == logits.nbytes == len(answer.body) - split
    assert answer.body[split:] == logits.tobytes()


def test_a_compressed_request(server: ServerProcess, logits: np.ndarray) -> None:
    body, length = binary_body({"parameters": {"binary_data_output": True}})
    answer = post(
        server,
        "/v2/models/vector/infer",
        gzip.compress(body),
        content_encoding="gzip",
        inference_header_content_length=length,
    )
    assert answer.body.endswith(logits.tobytes())


def test_a_large_request_and_answer(server: ServerProcess, repository: Path) -> None:
    """Large enough to be parsed, checked and written in threads."""
    x = np.random.default_rng(1).normal(size=(3000, 16)).astype(np.float32)
    body = {"inputs": [TENSOR | {"shape": [3000, 16], "data": x.tolist()}]}
    answer = post(server, "/v2/models/vector/infer", body)
    expected = Model.load(repository / "vector").predict({"x": x}).outputs["logits"]
    got = np.array(answer.json["outputs"][0]["data"], np.float32).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_text_and_classes(server: ServerProcess, repository: Path) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["few neurons work"]}
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    answer = post(server, "/v2/models/text/infer", {"inputs": [tensor], "outputs": outputs}).json
    logits = Model.load(repository / "text").predict("few neurons work").outputs["logits"][0]
    assert (answer["outputs"][0]["datatype"], answer["outputs"][0]["shape"]) == ("BYTES", [1, 2])
    best = np.argsort(-logits)[:2]
    assert [text.split(":")[1:] for text in answer["outputs"][0]["data"]] == [[str(i), f"class {i}"] for i in best]


def test_repository_calls(server: ServerProcess) -> None:
    states = {m["name"]: m["state"] for m in post(server, "/v2/repository/index").json}
    assert states == {"text": "READY", "sequence": "READY", "vector": "READY", "broken": "UNAVAILABLE"}
    ready = post(server, "/v2/repository/index", {"ready": True}).json
    assert "broken" not in {m["name"] for m in ready}
    assert post(server, "/v2/repository/models/sequence/load", {}).json == {}
    assert post(server, "/v2/repository/models/nothing/load").status == 404
    assert (
        "parameters.config" in post(server, "/v2/repository/models/text/load", {"parameters": {"config": "{}"}}).error
    )


def test_unload_and_load(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "vector", tmp_path / "models" / "vector")
    with serving(tmp_path / "models", tmp_path / "server.log") as server:
        assert (
            post(server, "/v2/repository/models/vector/unload", {"parameters": {"unload_dependents": True}}).json == {}
        )
        assert post(server, "/v2/models/vector/infer", BODY).status == 404
        assert post(server, "/v2/repository/models/vector/load").json == {}
        assert post(server, "/v2/models/vector/infer", BODY).status == 200
        assert server.terminate() == 0


def test_settings_and_shared_memory(server: ServerProcess) -> None:
    assert get(server, "/v2/trace/setting").json["trace_level"] == ["OFF"]
    assert get(server, "/v2/models/text/trace/setting").json["trace_level"] == ["OFF"]
    assert get(server, "/v2/logging").json["log_info"] is True
    assert "cannot be changed" in post(server, "/v2/logging", {"log_info": False}).error
    for kind in ("system", "cuda"):
        answer = get(server, f"/v2/{kind}sharedmemory/region/r/status")
        assert (answer.status, answer.error[:32]) == (501, "this server has no shared memory")


def change(**fields: Any) -> dict[str, Any]:
    return {"inputs": [TENSOR | {"data": X.tolist()} | fields]}


REFUSED: dict[str, tuple[int, object, str]] = {
    "no JSON": (400, b"{", "body: got 1 bytes that are not JSON"),
    "nothing": (400, b"", "body: got 0 bytes that are not JSON"),
    "no inputs": (400, {}, "inputs: got nothing; expected a list"),
    "inputs that are none": (400, {"inputs": {}}, "inputs: got dict; expected a list"),
    "no name": (400, {"inputs": [{}]}, r"inputs\[0\].name: got nothing; expected a string"),
    "no shape": (400, {"inputs": [{"name": "x", "datatype": "FP32"}]}, r"inputs\[0\].shape: got nothing"),
    "shape of floats": (400, change(shape=[3.0, 16]), r"inputs\[0\].shape: got 3.0; expected a whole number"),
    "huge shape": (400, change(shape=[2**63]), r"inputs\[0\].shape: got 9223372036854775808"),
    "wrong shape": (400, change(shape=[2, 16]), "input 'x': got 192 bytes of contents; expected 128"),
    "wrong datatype": (400, change(datatype="FP64"), "input 'x': got datatype FP64; expected FP32, the model's"),
    "FP16 in JSON": (400, change(datatype="FP16"), r"inputs\[0\].data: got datatype 'FP16' in JSON"),
    "ragged": (400, change(data=[[1.0], [1.0, 2.0]]), r"inputs\[0\].data: got lists of unlike lengths"),
    "text for numbers": (400, change(data=["a"] * 48), r"inputs\[0\].data: got elements that are not FP32"),
    "no data": (400, {"inputs": [TENSOR]}, r"inputs\[0\]: got neither data nor binary_data_size"),
    "shared memory": (400, change(parameters={"shared_memory_region": "r"}), "the parameter shared_memory_region"),
    "binary that is not there": (400, {"inputs": [TENSOR | {"parameters": {"binary_data_size": 8}}]}, "at most the 0"),
    "data twice": (400, change(parameters={"binary_data_size": 0}), "both data and binary_data_size"),
    "unknown output": (400, change() | {"outputs": [{"name": "y"}]}, r"outputs: got 'y'; expected some of"),
    "too many classes": (400, change() | {"outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
                         "output 'logits': classification: got -1"),
    "parameters of lists": (400, change() | {"parameters": {"a": []}}, "parameters.a: got list"),
    "timeout in words": (400, change() | {"parameters": {"timeout": "soon"}}, "parameters.timeout: got 'soon'"),
    "negative timeout": (400, change() | {"parameters": {"timeout": -1}}, "parameters.timeout: got -1"),
    "huge budget": (400, change() | {"parameters": {"budget": 2}}, "budget: got 2.0"),
    "many inputs": (400, {"inputs": [TENSOR] * 1025}, "inputs: got 1025 of them; expected at most 1024"),
    "an id that is a number": (400, change() | {"id": 7}, "id: got int; expected a string"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(server: ServerProcess, kind: str) -> None:
    status, body, words = REFUSED[kind]
    answer = post(server, "/v2/models/vector/infer", body)
    assert answer.status == status
    assert re.search(words, answer.error), answer.error


def test_refused_by_its_path(server: ServerProcess) -> None:
    assert "no model named 'nothing'; the server has" in post(server, "/v2/models/nothing/infer", BODY).error
    assert post(server, "/v2/models/vector/versions/7/infer", BODY).status == 404
    assert "model_version: got 'x'" in post(server, "/v2/models/vector/versions/x/infer", BODY).error
    assert get(server, "/v2/nothing").error == "/v2/nothing: no such path"
    wrong = get(server, "/v2/models/vector/infer")
    assert (wrong.status, wrong.error) == (405, "/v2/models/vector/infer: GET is not for this path")
    assert ask(server.http, "GET", "/nothing").body == b"Not Found\n"


def test_what_may_be_absent_may_be_null(server: ServerProcess) -> None:
    inputs = [{**BODY["inputs"][0], "parameters": None}]
    nulls = {"id": None, "parameters": None, "outputs": None, "inputs": inputs}
    assert post(server, "/v2/models/vector/infer", nulls).json == post(server, "/v2/models/vector/infer", BODY).json
    wanted = {**nulls, "outputs": [{"name": "logits", "parameters": None}]}
    assert post(server, "/v2/models/vector/infer", wanted).status == 200


def test_headers_that_do_not_fit(server: ServerProcess) -> None:
    answer = post(server, "/v2/models/vector/infer", BODY, inference_header_content_length="999999")
    assert "inference-header-content-length '999999'" in answer.error
    assert "header timeout: got 'soon'" in post(server, "/v2/models/vector/infer", BODY, timeout="soon").error
    assert post(server, "/v2/models/vector/infer", BODY, content_encoding="br").status == 415


def test_every_request_is_counted(server: ServerProcess) -> None:
    def count(**labels: str) -> float:
        return server.total("lazyneuron_requests_total", **labels)

    before = [count(model="vector", code="OK"), count(code="INVALID_ARGUMENT"), count(code="NOT_FOUND")]
    post(server, "/v2/models/vector/infer", BODY)
    post(server, "/v2/models/vector/infer", b"{")
    post(server, "/v2/models/nothing/infer", BODY)
    after = [count(model="vector", code="OK"), count(code="INVALID_ARGUMENT"), count(code="NOT_FOUND")]
    assert [a - b for a, b in zip(after, before, strict=True)] == [1, 1, 1]


def test_an_internal_fault_is_told_in_the_log_only(server: ServerProcess) -> None:
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [10**9]}
    answer = post(server, "/v2/models/text/infer", {"inputs": [ids]})
    assert answer.status == 500
    assert answer.error.startswith("internal error; the server's log has it under request ")
    until(lambda: answer.error.split()[-1] in server.log.read_text(), "the log has it")


def test_curl(server: ServerProcess) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--silent", "--show-error", "--fail-with-body", f"http://{server.http}/v2/models/vector/infer"]
    done = subprocess.run([*command, "--data", json.dumps(BODY)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [3, 3]


# What is refused for its size, and what happens when there is too much to do.
LIMITS = """
max_message_bytes = 200_000
rest.max_json_bytes = 20_000
http.body_seconds = 0.5
queue.max_requests = 2
batching.max_requests = 1
"""


@pytest.fixture(scope="module")
def small(slow_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("small") / "server.log"
    with serving(slow_repository, log, LIMITS) as server:
        yield server
        assert server.terminate() == 0
        assert "Traceback" not in log.read_text()


def slow_body(**extra: Any) -> tuple[bytes, str]:
    x = np.ones((1, 64, 256), np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    json_part = json.dumps({"inputs": [tensor]} | extra).encode()
    return json_part + x.tobytes(), str(len(json_part))


def test_bodies_that_are_too_large(small: ServerProcess) -> None:
    answer = post(small, "/v2/models/slow/infer", b" " * 200_001)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "larger than 200000 bytes (the server's max_message_bytes)" in answer.error
    bomb = post(small, "/v2/models/slow/infer", gzip.compress(b" " * 10**7), content_encoding="gzip")
    assert "more than 200000 bytes once decompressed" in bomb.error
    assert "send large tensors as binary data" in post(small, "/v2/models/slow/infer", b" " * 20_001).error


def test_a_body_that_does_not_come(small: ServerProcess) -> None:
    connection = http.client.HTTPConnection(small.http, timeout=60)
    connection.putrequest("POST", "/v2/models/slow/infer")
    connection.putheader("content-length", "100")
    connection.endheaders(b"{")
    response = connection.getresponse()
    assert (response.status, response.getheader("connection")) == (408, "close")
    connection.close()


def test_a_full_queue_and_deadlines(small: ServerProcess) -> None:
    body, length = slow_body()
    late, late_length = slow_body(parameters={"timeout": 1})
    with ThreadPoolExecutor(12) as threads:
        several = [
            threads.submit(post, small, "/v2/models/slow/infer", body, inference_header_content_length=length)
            for _ in range(12)
        ]
        answers = [one.result() for one in several]
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert "the queue is full" in refused.error
    assert int(refused.headers["retry-after"]) >= 1
    over = threading.Event()

    def keep_busy() -> set[int]:
        statuses = set()
        while not over.is_set():
            statuses.add(post(small, "/v2/models/slow/infer", body, inference_header_content_length=length).status)
        return statuses

    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(keep_busy)
        try:
            ends = time.monotonic() + 60
            while True:
                answer = post(small, "/v2/models/slow/infer", late, inference_header_content_length=late_length)
                if answer.status == 504 or time.monotonic() > ends:
                    break
        finally:
            over.set()
        assert answer.status == 504
        assert "the deadline passed" in answer.error
        assert busy.result() == {200}
    header = post(small, "/v2/models/slow/infer", body, inference_header_content_length=length, timeout="60000000")
    assert header.status == 200


def test_a_client_that_leaves_frees_the_queue(small: ServerProcess) -> None:
    body, length = slow_body()
    headers = {"inference-header-content-length": length}
    connections = [http.client.HTTPConnection(small.http, timeout=60) for _ in range(3)]
    for connection in connections:
        connection.request("POST", "/v2/models/slow/infer", body, headers)
    for connection in connections:
        connection.close()
    ends = time.monotonic() + 60
    while small.total("lazyneuron_requests_total", code="CANCELLED") == 0:
        assert time.monotonic() < ends, "nothing was cancelled"
        time.sleep(0.05)
    assert post(small, "/v2/models/slow/infer", body, inference_header_content_length=length).status in (200, 429)


def test_inference_over_http_can_be_turned_off() -> None:
    config = ServerConfig(rest=RestConfig(enabled=False))
    assert rest_routes(Face(config, Metrics(), lambda: None, lambda: None)) == []


def test_while_models_load() -> None:
    """What is asked before there are models is told so; liveness is not asked in vain."""
    app = http_app(ServerConfig(), Metrics(), lambda: None, lambda: None)
    with TestClient(app) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        for answer in (client.get("/v2"), client.post("/v2/models/m/infer"), client.post("/v1/models/m:predict")):
            assert (answer.status_code, answer.json()) == (
                503,
                {"error": "the server is loading its models; try again"},
            )


# Requests that nobody would write: each is answered, and none finds a fault of the server's.
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "x", "text"]) | values},
    optional={
        "datatype": st.sampled_from(["FP32", "FP32", "BYTES", "BF16", *DATATYPES]) | values,
        "shape": st.sampled_from([[3, 16], [1, 16], [1]]) | values,
        "data": st.just(X.tolist()) | st.just(X.ravel().tolist()) | values,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "a"]), values, max_size=2) | values,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | values},
    optional={
        "id": values,
        "parameters": st.dictionaries(st.sampled_from(["budget", "timeout", "binary_data_output"]), values) | values,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["logits", "y"])},
                optional={"parameters": st.dictionaries(st.sampled_from(["classification", "binary_data"]), values)},
            ),
            max_size=2,
        )
        | values,
    },
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents | values, length=st.none() | st.integers(-1, 300))
def test_fuzz(server: ServerProcess, document: object, length: int | None) -> None:
    headers = {} if length is None else {"inference_header_content_length": str(length)}
    answer = post(server, "/v2/models/vector/infer", json.dumps(document).encode(), **headers)
    # 504: a timeout of its own making.
    assert answer.status in (200, 400, 504), answer
    assert answer.status == 200 or answer.error
