"""`PredictStream` and `ModelStreamInfer` over a socket: many requests in flight, errors in the stream, cancellation."""

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lazyneuron.engine.model import Model
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from tests.server.test_predict import assert_same, outputs_of, random_request, request_for
from tests.support.server import ServerProcess, serving

PREDICT = "/lazyneuron.v1.PredictionService/PredictStream"
INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
MANY = 200


def infer_request(index: int, model: str = "vector", **fields: Any) -> oip.ModelInferRequest:
    x = np.full((1, 16), index / 100, np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16]}
    return oip.ModelInferRequest(
        model_name=model, id=str(index), inputs=[tensor], raw_input_contents=[x.tobytes()], **fields
    )


def test_each_answer_is_its_request_s(channel: grpc.Channel, repository: Path, server: ServerProcess) -> None:
    random = np.random.default_rng(5)
    cases = [random_request(random) for _ in range(MANY)]
    before = server.total("lazyneuron_requests_total", code="OK")
    requests = (request_for(name, inputs, budget=b, id=str(i)) for i, (name, inputs, b) in enumerate(cases))
    answers = {answer.id: answer for answer in PredictionServiceStub(channel).PredictStream(requests, timeout=60)}
    assert set(answers) == {str(i) for i in range(MANY)}
    models = {name: Model.load(repository / name) for name in ("text", "sequence", "vector")}
    for index, (name, inputs, budget) in enumerate(cases):
        assert_same(outputs_of(answers[str(index)].response), dict(models[name].predict(inputs, budget).outputs))
    assert server.total("lazyneuron_requests_total", code="OK") == before + MANY


def test_an_error_is_one_request_s_own(channel: grpc.Channel) -> None:
    requests = [
        request_for("text", "lazy neurons", id="good"),
        request_for("nothing", "lazy", id="unknown"),
        request_for("text", "lazy", id="late", timeout_seconds=-1.0),
        request_for("vector", "lazy", id="no tokenizer"),
    ]
    answers = {answer.id: answer for answer in PredictionServiceStub(channel).PredictStream(iter(requests), timeout=30)}
    assert answers["good"].response.model_name == "text"
    errors = {key: (answer.error.code, answer.error.kind) for key, answer in answers.items() if key != "good"}
    assert errors == {
        "unknown": (5, "ModelNotFoundError"),
        "late": (3, "InputError"),
        "no tokenizer": (3, "InputError"),
    }
    assert answers["late"].error.message == "timeout_seconds: got -1.0; expected seconds, more than 0"


@pytest.mark.parametrize(
    ("method", "answer_type"), [(PREDICT, pb.PredictStreamResponse), (INFER, oip.ModelStreamInferResponse)]
)
def test_a_message_that_does_not_parse_does_not_end_the_stream(
    channel: grpc.Channel, method: str, answer_type: Any
) -> None:
    good = request_for("text", "lazy", id="good") if method == PREDICT else infer_request(1)
    call = channel.stream_stream(method, response_deserializer=answer_type.FromString)
    answers = list(call(iter([b"\xff\xff", good.SerializeToString()]), timeout=30))
    words = [a.error.message if method == PREDICT else a.error_message for a in answers]
    assert sum("do not parse" in text for text in words) == 1
    assert len(answers) == 2


def test_triton_s_stream_keeps_the_order(channel: grpc.Channel, repository: Path) -> None:
    """A slow request first; and errors in their place, with their ids."""
    slow = infer_request(0)
    requests = [slow, *(infer_request(i, "nothing" if i % 5 == 4 else "vector") for i in range(1, MANY))]
    answers = list(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests), timeout=60))
    assert [answer.infer_response.id for answer in answers] == [str(i) for i in range(MANY)]
    assert [bool(a.error_message) for a in answers] == [i % 5 == 4 for i in range(MANY)]
    assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)
    model = Model.load(repository / "vector")
    for index in (1, 2, MANY - 3):
        got = np.frombuffer(answers[index].infer_response.raw_output_contents[0], np.float32)
        expected = model.predict({"x": np.full((1, 16), index / 100, np.float32)}).outputs["logits"]
        np.testing.assert_allclose(got, expected[0], rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.fixture(scope="module")
def slow_server(slow_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("slow server") / "server.log"
    with serving(slow_repository, log, "stream.max_in_flight = 32") as server:
        yield server
        assert server.terminate() == 0
        assert "Traceback" not in log.read_text()


SLOW = np.ones((1, 64, 256), np.float32)


def test_a_timeout_parameter(slow_server: ServerProcess) -> None:
    """Microseconds, as Triton's clients send it: what waits longer is not computed."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(SLOW.shape)}

    def request(index: int) -> oip.ModelInferRequest:
        made = oip.ModelInferRequest(
            model_name="slow", id=str(index), inputs=[tensor], raw_input_contents=[SLOW.tobytes()]
        )
        if index:
            made.parameters["timeout"].int64_param = 1
        return made

    with grpc.insecure_channel(slow_server.grpc) as channel:
        answers = list(GRPCInferenceServiceStub(channel).ModelStreamInfer(map(request, range(4)), timeout=60))
    assert not answers[0].error_message
    assert all("the deadline passed" in answer.error_message for answer in answers[1:])
    assert slow_server.total("lazyneuron_requests_total", code="DEADLINE_EXCEEDED") == 3


def test_cancelling_a_stream_frees_the_queue(slow_server: ServerProcess) -> None:
    with grpc.insecure_channel(slow_server.grpc) as channel:
        sender = Sender(*(request_for("slow", {"x": SLOW}, id=str(i)) for i in range(100)))
        call = PredictionServiceStub(channel).PredictStream(iter(sender))
        next(call)
        call.cancel()
        sender.send(None)
        ends = time.monotonic() + 60
        while slow_server.total("lazyneuron_requests_total", code="CANCELLED") == 0:
            assert time.monotonic() < ends, "nothing was cancelled"
            time.sleep(0.05)
        assert slow_server.total("lazyneuron_queue_requests") == 0
    # No more than the stream's limit was ever taken in beyond what was answered.
    answered = slow_server.total("lazyneuron_requests_total")
    cancelled = slow_server.total("lazyneuron_requests_total", code="CANCELLED")
    assert cancelled <= 32
    assert answered < 100


class Sender:
    """A stream of requests that stays open until it is told to end."""

    def __init__(self, *first: Any) -> None:
        self._requests: queue.Queue[Any] = queue.Queue()
        for request in first:
            self._requests.put(request)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._requests.get, None)


GONE = """
import os, sys, grpc
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from tests.server.test_predict import request_for
channel = grpc.insecure_channel(sys.argv[1])
call = PredictionServiceStub(channel).PredictStream(request_for("text", "lazy " * 60) for _ in range(10**6))
next(call)
os.kill(os.getpid(), 9)
"""


def test_a_client_that_is_killed(server: ServerProcess) -> None:
    """Its requests come to an end, and the log has nothing to tell."""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", GONE, server.grpc], timeout=120)
        assert done.returncode == -9
    ends = time.monotonic() + 60
    while server.total("lazyneuron_queue_requests") > 0:
        assert time.monotonic() < ends, "requests of nobody wait"
        time.sleep(0.05)
    answered = server.total("lazyneuron_requests_total")
    assert answered < 10**6
    assert "PredictStream) failed" not in server.log.read_text()


def test_sigterm_ends_open_streams_after_their_answers(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "server.log", "grace_seconds = 20.0") as server:
        senders = [Sender(request_for("text", "lazy", id="0")), Sender(infer_request(0))]
        with grpc.insecure_channel(server.grpc) as channel:
            calls = [
                PredictionServiceStub(channel).PredictStream(iter(senders[0])),
                GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(senders[1])),
            ]
            for call in calls:
                next(call)
            stopped = threading.Thread(target=server.terminate)
            stopped.start()
            for call in calls:
                with pytest.raises(grpc.RpcError) as caught:
                    next(call)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "send them to another" in caught.value.details()
            stopped.join(15)  # well before the grace is over
            assert server.process.poll() == 0
        for sender in senders:
            sender.send(None)
