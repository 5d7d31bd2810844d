"""The process: ports, SIGTERM with requests in flight, clients that die, overload and deadlines."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from tests.server.test_predict import request_for
from tests.support.server import ServerProcess, serving, until

ONE_AT_A_TIME = "[batching]\nmax_requests = 1\n"
# An answer just below the 4 MiB that a gRPC client takes unless told otherwise.
LONG = request_for("slow", {"x": np.ones((7, 512, 256), np.float32)})
SHORT = request_for("slow", {"x": np.ones((1, 4, 256), np.float32)})


def code_of(call: Future[pb.PredictResponse]) -> str:
    error = call.exception(timeout=60)
    if error is None:
        return "OK"
    assert isinstance(error, grpc.RpcError)
    name: str = error.code().name
    return name


@pytest.fixture
def pool() -> "ThreadPoolExecutor":
    return ThreadPoolExecutor(16)


def test_sigterm_answers_what_was_admitted(slow_repository: Path, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with serving(slow_repository, tmp_path / "log", ONE_AT_A_TIME) as server, grpc.insecure_channel(server.grpc) as to:
        stub = PredictionServiceStub(to)
        calls = [pool.submit(stub.Predict, LONG) for _ in range(6)]
        until(lambda: server.total("lazyneuron_queue_requests") == 5, "five wait behind one")
        health = health_pb2_grpc.HealthStub(to).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        health.cancel()
        late = pool.submit(stub.Predict, SHORT)
        assert code_of(late) == "UNAVAILABLE"
        assert "the server is stopping and takes no new requests" in late.exception().details()  # type: ignore[union-attr]
        assert [code_of(call) for call in calls] == ["OK"] * 6
        assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()


def test_sigint_stops_an_idle_server_at_once(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0


def test_requests_that_do_not_finish_in_the_grace_time(slow_repository: Path, tmp_path: Path) -> None:
    settings = "grace_seconds = 0.2\n" + ONE_AT_A_TIME
    with serving(slow_repository, tmp_path / "log", settings) as server, grpc.insecure_channel(server.grpc) as channel:
        calls = [PredictionServiceStub(channel).Predict.future(LONG) for _ in range(8)]
        until(lambda: server.total("lazyneuron_queue_requests") > 0, "some wait")
        assert server.terminate(timeout=20) == 1
        assert "not every admitted request finished within 0.2 s" in server.log.read_text()
        assert any(call.code() is not grpc.StatusCode.OK for call in calls)


@pytest.mark.parametrize("flag", ["--grpc-port", "--http-port"])
def test_a_port_in_use_is_one_line(repository: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ports = {"--grpc-port": "0", "--http-port": "0"} | {flag: port}
        command = [sys.executable, "-m", "lazyneuron", "serve", str(repository)]
        done = subprocess.run(
            [*command, *(part for pair in ports.items() for part in pair)], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 1
    expected = f"error: 127.0.0.1:{port} cannot be bound (Address already in use); choose another with {flag} or --host"
    assert done.stderr.splitlines() == [expected]


@pytest.mark.parametrize("host", ["not a host", "a" * 300])
def test_a_host_that_is_none_is_one_line(repository: Path, host: str) -> None:
    command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {host}:8001 cannot be bound .*; choose another with .* or --host\n", done.stderr)


def test_two_servers_do_not_share_a_port(server: ServerProcess, repository: Path) -> None:
    port = server.grpc.rpartition(":")[2]
    command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--http-port", "0", "--grpc-port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "cannot be bound" in done.stderr


def test_a_repository_without_a_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lazyneuron", "serve", str(tmp_path), "--http-port", "0", "--grpc-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("no model in it; expected NAME/VERSION/manifest.json, as from export")


_DOOMED = """
import sys, threading, grpc, numpy as np
from tests.server.test_process import LONG
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
channel = grpc.insecure_channel(sys.argv[1])
calls = [PredictionServiceStub(channel).Predict.future(LONG) for _ in range(6)]
print("sent", flush=True)
threading.Event().wait()
"""


def test_a_client_that_is_killed_frees_its_room(slow_repository: Path, tmp_path: Path) -> None:
    with serving(slow_repository, tmp_path / "log", ONE_AT_A_TIME) as server:
        command = [sys.executable, "-c", _DOOMED, server.grpc]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": "."}
        ) as doomed:
            until(lambda: server.total("lazyneuron_queue_requests") >= 4, "its requests wait")
            doomed.kill()
        until(lambda: server.total("lazyneuron_queue_requests") == 0, "its requests are gone", seconds=5)
        with grpc.insecure_channel(server.grpc) as channel:
            assert PredictionServiceStub(channel).Predict(SHORT, timeout=10).model_name == "slow"
        ran = server.total("lazyneuron_batch_requests_count")
        assert ran < 6, "work was done for a client that had gone"
        assert server.total("lazyneuron_requests_total", code="CANCELLED") == 6
        assert server.terminate() == 0


def test_work_past_its_deadline_is_never_started(
    slow_repository: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with serving(slow_repository, tmp_path / "log", ONE_AT_A_TIME) as server, grpc.insecure_channel(server.grpc) as to:
        stub = PredictionServiceStub(to)
        ahead = [pool.submit(stub.Predict, LONG) for _ in range(4)]
        until(lambda: server.total("lazyneuron_queue_requests") == 3, "one runs, three wait")
        hurried = [pool.submit(stub.Predict, SHORT, timeout=0.2) for _ in range(5)]
        assert [code_of(call) for call in hurried] == ["DEADLINE_EXCEEDED"] * 5
        assert [code_of(call) for call in ahead] == ["OK"] * 4
        until(lambda: server.total("lazyneuron_requests_total") == 9, "they are counted")
        assert server.total("lazyneuron_requests_total", code="OK") == 4
        assert server.total("lazyneuron_batch_requests_count") == 4
        assert server.total("lazyneuron_tokens_total", kind="real") == 4 * 7 * 512


def test_a_full_queue_says_when_to_come_back(slow_repository: Path, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    settings = ONE_AT_A_TIME + "[queue]\nmax_requests = 2\n"
    with serving(slow_repository, tmp_path / "log", settings) as server, grpc.insecure_channel(server.grpc) as to:
        stub = PredictionServiceStub(to)
        admitted = [pool.submit(stub.Predict, LONG)]
        running = "lazyneuron_running_batches"
        until(lambda: server.total(running) == 1, "one runs")
        admitted += [pool.submit(stub.Predict, LONG) for _ in range(2)]
        until(lambda: server.total("lazyneuron_queue_requests") == 2, "two wait")
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(SHORT, timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the queue is full: 2 of 2 requests" in caught.value.details()
        metadata = dict(caught.value.trailing_metadata())
        assert int(metadata["grpc-retry-pushback-ms"]) >= 1
        assert [code_of(call) for call in admitted] == ["OK"] * 3
        assert code_of(pool.submit(stub.Predict, SHORT)) == "OK"


def test_half_a_message_does_not_hold_the_server_up(server: ServerProcess) -> None:
    host, port = server.grpc.split(":")
    with socket.create_connection((host, int(port))) as half, grpc.insecure_channel(server.grpc) as channel:
        half.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00")
        threads = [threading.Thread(target=lambda: channel_ok(channel)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def channel_ok(channel: grpc.Channel) -> None:
    PredictionServiceStub(channel).Predict(request_for("text", "lazy"), timeout=10)


def test_sigterm_under_load_tells_every_call_what_happened(repository: Path, tmp_path: Path) -> None:
    """Calls are answered or refused as UNAVAILABLE; none is cut off."""
    codes: list[str] = []
    with serving(repository, tmp_path / "log") as server, grpc.insecure_channel(server.grpc) as channel:
        predict = PredictionServiceStub(channel).Predict
        request = request_for("vector", {"x": np.ones((1, 16), np.float32)})

        def ask() -> None:
            while True:
                code = code_of(predict.future(request, timeout=10))
                codes.append(code)
                if code != "OK":
                    return

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        until(lambda: len(codes) > 200, "two hundred answers")
        assert server.terminate() == 0
        for thread in threads:
            thread.join(20)
    assert set(codes) <= {"OK", "UNAVAILABLE"}, {code: codes.count(code) for code in set(codes)}
    assert codes.count("UNAVAILABLE") == 16
