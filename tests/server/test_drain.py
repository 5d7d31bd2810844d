"""SIGTERM with requests in flight on every face: over HTTP, on a stream, and a watch of the health."""

import json
import queue
import signal
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from tests.server.test_predict import request_for
from tests.server.test_process import LONG, ONE_AT_A_TIME
from tests.support.server import serving, until

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256, 256], "data": np.ones(256 * 256).tolist()}]}
).encode()


def test_sigterm_answers_http_and_streams_too(slow_repository: Path, tmp_path: Path) -> None:
    settings = "grace_seconds = 600\n" + ONE_AT_A_TIME + "[tls]\nreload_seconds = 0.1\n"
    with (
        serving(slow_repository, tmp_path / "log", settings) as server,
        grpc.insecure_channel(server.grpc) as channel,
        ThreadPoolExecutor(8) as pool,
    ):

        def infer() -> int:
            request = urllib.request.Request(f"http://{server.http}/v2/models/slow/infer", data=BODY)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert json.loads(answer.read())["model_name"] == "slow"
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        ahead = pool.submit(PredictionServiceStub(channel).Predict, LONG, timeout=60)
        until(lambda: server.total("lazyneuron_batch_requests_count") >= 1 or ahead.running(), "one runs")
        asked: queue.Queue[object] = queue.Queue()
        answers = PredictionServiceStub(channel).PredictStream(iter(asked.get, None), timeout=60)
        for _ in range(2):
            asked.put(request_for("slow", {"x": np.ones((1, 256, 256), np.float32)}))
        over_http = [pool.submit(infer) for _ in range(3)]
        until(lambda: server.total("lazyneuron_queue_requests") >= 4, "they wait")
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Alive and not ready, until the last is answered.
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{server.http}/readyz", timeout=20)
        assert (refused.value.code, refused.value.read()) == (503, b"stopping\n")
        assert server.get("/healthz") == "live\n"
        late = pool.submit(infer)
        assert late.result(60) == 503
        assert [next(answers).WhichOneof("result") for _ in range(2)] == ["response", "response"]
        assert [call.result(60) for call in over_http] == [200, 200, 200]
        assert ahead.result(60).model_name == "slow"
        threading.Timer(0, asked.put, (None,)).start()
        assert server.process.wait(60) == 0  # who watches its health does not hold it up
        with pytest.raises(grpc.RpcError) as ended:
            next(health)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in server.log.read_text()
