"""A gRPC server that answers `Predict` as a test says, to see what a client makes of it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceServicer, add_PredictionServiceServicer_to_server

Answer = Callable[[pb.PredictRequest, grpc.ServicerContext, int], pb.PredictResponse]


@dataclass
class Scripted(PredictionServiceServicer):
    """Calls `answer(request, context, number of this call)`; counts calls, and how many there were at once."""

    answer: Answer
    address: str = ""
    calls: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:  # noqa: N802
        with self.lock:
            self.calls += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            number = self.calls
        try:
            return self.answer(request, context, number)
        finally:
            with self.lock:
                self.at_once -= 1


@contextmanager
def scripted(answer: Answer) -> Iterator[Scripted]:
    server = grpc.server(ThreadPoolExecutor(64))
    service = Scripted(answer)
    add_PredictionServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()


def until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait for a condition; fail, naming it, when it does not come."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        time.sleep(0.005)
