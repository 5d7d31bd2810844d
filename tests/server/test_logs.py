"""The log: its form, what it says of a call, and that no disk, pipe or storm of lines holds serving up."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyneuron import Client
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.calls import Call, refusal
from lazyneuron.server.config import LogConfig
from lazyneuron.server.logs import LogOutput
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.observer import Observer
from tests.server.test_predict import request_for
from tests.support.rest import ask
from tests.support.server import ServerProcess, serving, until

X = {"x": np.ones((1, 16), np.float32)}
JSON = '[log]\nformat = "json"\naccess = "all"\n'


def lines(server: ServerProcess) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(repository, tmp_path_factory.mktemp("logs") / "log", JSON) as server:
        yield server


def test_every_line_is_an_object_and_tells_what_a_call_took(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        predict = PredictionServiceStub(channel).Predict
        _, call = predict.with_call(request_for("vector", X), metadata=[("x-request-id", "order-17:a")], timeout=20)
        assert dict(call.trailing_metadata())["x-request-id"] == "order-17:a"
        with pytest.raises(grpc.RpcError) as caught:
            predict(request_for("nothing", X), metadata=[("x-request-id", "order-18")], timeout=20)
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "order-18"
    until(lambda: {"order-17:a", "order-18"} <= {line.get("request_id") for line in lines(server)}, "both are told")
    found = {line["request_id"]: line for line in lines(server) if "request_id" in line}
    told, refused = found["order-17:a"], found["order-18"]
    assert told["method"] == "/lazyneuron.v1.PredictionService/Predict"
    assert (told["model"], told["version"], told["code"], told["client"]) == ("vector", 1, "OK", "127.0.0.1")
    assert told["level"] == "INFO"
    assert str(told["time"]).endswith("+00:00")
    assert told["batch_requests"] == 1
    seconds, queue, inference = (told[f"{name}seconds"] for name in ("", "queue_", "inference_"))
    assert isinstance(seconds, float)
    assert isinstance(queue, float)
    assert isinstance(inference, float)
    assert 0 < inference <= seconds
    assert 0 <= queue <= seconds
    assert refused["code"] == "NOT_FOUND"
    assert "no model named 'nothing'" in str(refused["error"])


def test_a_client_s_fault_over_http_is_not_the_server_s(server: ServerProcess) -> None:
    path = "/v2/models/vector/infer"
    assert ask(server.http, "POST", path, b"", content_encoding="br", x_request_id="br").status == 415
    until(lambda: "br" in {line.get("request_id") for line in lines(server)}, "it is told")
    assert [line["code"] for line in lines(server) if line.get("request_id") == "br"] == ["INVALID_ARGUMENT"]


def test_an_instance_that_fails_is_told_in_the_request_s_line(server: ServerProcess) -> None:
    body = {"instances": ["lazy", {"input_ids": [9999]}]}
    assert ask(server.http, "POST", "/v1/models/text:predict", body, x_request_id="instance-1").status == 500

    def told() -> list[dict[str, object]]:
        return [x for x in lines(server) if x.get("request_id") == "instance-1" and "code" in x]

    until(lambda: bool(told()), "it is told")
    assert [(x["code"], x["model"]) for x in told()] == [("INTERNAL", "text")]
    assert "ONNX Runtime failed" in str(told()[0]["error"])


@pytest.mark.parametrize("wanted", ["", " ", "a b", "x" * 200, "id\twith\ttabs", "{}", "-dash-first", "’"])
def test_an_id_that_is_not_sane_is_replaced(server: ServerProcess, wanted: str) -> None:
    request = urllib.request.Request(
        f"http://{server.http}/", headers={"x-request-id": wanted.encode().decode("latin-1")}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["x-request-id"].isalnum()
        assert answer.headers["x-request-id"] != wanted


def test_an_id_of_http(server: ServerProcess) -> None:
    request = urllib.request.Request(f"http://{server.http}/", headers={"x-request-id": "page-1"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["x-request-id"] == "page-1"
    until(lambda: "page-1" in {line.get("request_id") for line in lines(server)}, "it is told")


def test_a_line_of_a_fault_has_the_call_s_id(server: ServerProcess) -> None:
    ids = {"input_ids": np.array([[2, 10**9]])}  # passes every check, and fails inside ONNX Runtime
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError):
        PredictionServiceStub(channel).Predict(
            request_for("text", ids), metadata=[("x-request-id", "fault-1")], timeout=20
        )
    until(
        lambda: [x.get("code") for x in lines(server) if x.get("request_id") == "fault-1"] == [None, "INTERNAL"], "told"
    )
    fault = next(line for line in lines(server) if line.get("request_id") == "fault-1")
    assert fault["level"] == "ERROR"
    assert str(fault["exception"]).startswith("Traceback")


@pytest.mark.parametrize(
    ("access", "sample", "codes"), [("none", 1, []), ("errors", 1, ["INTERNAL"]), ("all", 0, ["INTERNAL"])]
)
def test_which_calls_get_a_line(access: str, sample: float, codes: list[str], caplog: pytest.LogCaptureFixture) -> None:
    observer = Observer(Metrics(), LogConfig.model_validate({"access": access, "access_sample": float(sample)}))
    with caplog.at_level(logging.INFO):
        for code in ("OK", "INVALID_ARGUMENT", "INTERNAL"):
            observer.end(observer.begin("/a.B/C", {}, "here"), code)
    assert [record.code for record in caplog.records] == codes  # type: ignore[attr-defined]


def test_a_storm_of_refusals_costs_few_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Observer(Metrics(), LogConfig(access_per_second=10))
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            observer.end(observer.begin("/a.B/C", {}, "here"), "RESOURCE_EXHAUSTED")
        assert (len(caplog.records), observer.unlogged) == (10, 990)
        now = 1001.0
        observer.end(observer.begin("/a.B/C", {}, "here"), "RESOURCE_EXHAUSTED")
        assert len(caplog.records) == 11


def test_a_storm_of_failures_has_few_tracebacks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 2000.0)
    for _ in range(1000):
        refusal(Call("/a.B/C"), RuntimeError("why"))
    assert [record.exc_info is not None for record in caplog.records] == [True] * 10


@settings(max_examples=60)
@given(text=st.text(max_size=40), form=st.sampled_from(["text", "json"]))
def test_a_client_s_text_makes_no_line_of_its_own(text: str, form: str) -> None:
    reader, writer = os.pipe()
    logger = logging.getLogger("tests.logs")
    with LogOutput(LogConfig.model_validate({"format": form}), writer):
        logger.warning("refused %s", text, extra={"client": text})
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", newline="\n") as file:
        written = file.read()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert not any(ord(c) < 32 and c not in "\n\t" for c in written)
    if form == "json":
        assert json.loads(written)["client"] == text


def test_what_is_lost_is_counted_and_told() -> None:
    reader, writer = os.pipe()
    logger = logging.getLogger("tests.logs")
    output = LogOutput(LogConfig(max_waiting=5), writer)
    size = 4096
    with output:
        for number in range(400):  # far more than a pipe and the queue hold
            logger.warning("%0*d", size, number)
        until(lambda: output.dropped > 300, "most are dropped")
        os.set_blocking(reader, False)
        written = b""

        def read() -> bool:
            nonlocal written
            with contextlib.suppress(BlockingIOError):
                written += os.read(reader, 1 << 20)
            return b"lines of the log were lost" in written

        until(read, "what is lost is told once there is room")
    os.close(writer)
    os.close(reader)


def _answers(server: ServerProcess, calls: int) -> None:
    """Serve many calls, each with a line, a few of them with a traceback."""
    with Client(server.grpc) as client, grpc.insecure_channel(server.grpc) as channel:
        faulty = request_for("text", {"input_ids": np.array([[2, 10**9]])})
        for number in range(calls):
            client.predict("vector", X, timeout=20)
            if number % 20 == 0:
                with pytest.raises(grpc.RpcError):
                    PredictionServiceStub(channel).Predict(faulty, timeout=20)


def test_a_full_disk_does_not_stop_serving(repository: Path, tmp_path: Path) -> None:
    with (
        open("/dev/full", "w") as full,  # noqa: PTH123  not a path to make anything of
        serving(repository, tmp_path / "log", JSON, stderr=full) as server,
    ):
        _answers(server, 40)
        assert server.total("lazyneuron_log_lines_lost_total", reason="full") > 40
        assert server.terminate() == 0


def test_a_pipe_that_nobody_reads_does_not_stop_serving(repository: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with serving(
        repository, tmp_path / "log", JSON + "max_waiting = 20\naccess_per_second = 100000\n", stderr=writer
    ) as server:
        os.close(writer)
        until(
            lambda: _answers(server, 100) is None and server.total("lazyneuron_log_lines_lost_total") > 50, "lost", 60
        )
        assert server.terminate() == 0
    os.close(reader)


def test_a_reader_that_has_gone_does_not_stop_serving(repository: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with serving(repository, tmp_path / "log", JSON, stderr=writer) as server:
        os.close(writer)
        os.close(reader)
        _answers(server, 20)
        assert server.terminate() == 0


def test_a_ready_line_that_cannot_be_written_does_not_stop_serving(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--grpc-port", "0", "--http-port", "0"]
    with open("/dev/full", "w") as full, log.open("w") as errors:  # noqa: PTH123
        process = subprocess.Popen([*command, "--set", "log.level=debug"], stdout=full, stderr=errors)
        until(lambda: "ready: gRPC on" in log.read_text(), "it serves")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()
