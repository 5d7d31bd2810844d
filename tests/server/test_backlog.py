"""Calls that nobody has read yet: how many may be, and when the next one is taken in."""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server import backlog
from lazyneuron.server.backlog import Arrivals, Intake, backlog_options
from lazyneuron.server.config import QueueConfig
from tests.server.test_predict import request_for
from tests.support.server import serving, until

OK, FULL, LATE = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("queue", "soft", "hard"),
    [
        (QueueConfig(), 384, 512),
        (QueueConfig(max_wait_seconds=0.8), 150, 200),
        (QueueConfig(max_wait_seconds=0.01), 96, 128),
        (QueueConfig(max_requests=1), 96, 128),
    ],
)
def test_the_bound_follows_the_queue_s(queue: QueueConfig, soft: int, hard: int) -> None:
    assert dict(backlog_options(queue)) == {
        "grpc.server.max_pending_requests": soft,
        "grpc.server.max_pending_requests_hard_limit": hard,
    }


def handler(behavior: Any) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(behavior)})


def test_the_core_cuts_off_what_is_too_much_and_no_health_check() -> None:
    most = dict(backlog_options(QueueConfig(max_requests=1)))["grpc.server.max_pending_requests_hard_limit"]
    sent = 3 * most

    async def run() -> tuple[Counter[str], int]:
        async def answer(request: bytes, context: object) -> bytes:
            return request

        arrivals = Arrivals()
        server = grpc.aio.server(options=backlog_options(QueueConfig(max_requests=1)))
        assert arrivals.found()
        server.add_registered_method_handlers("a.B", {"C": grpc.unary_unary_rpc_method_handler(answer)})
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.to_thread(channel.unary_unary("/a.B/C"), b"connected")
            # The loop stands still here until the core has cut off, or keeps, all that was sent.
            calls = [channel.unary_unary("/a.B/C").future(b"x", timeout=60) for _ in range(sent)]
            check = health_pb2_grpc.HealthStub(channel).Check.future(health_pb2.HealthCheckRequest(), timeout=60)
            ends = time.monotonic() + 60
            while sum(call.done() for call in calls) < sent - most - 1 and time.monotonic() < ends:
                time.sleep(0.01)
            codes = await asyncio.to_thread(lambda: Counter(call.code().name for call in calls))
            status = (await asyncio.to_thread(check.result)).status
        assert arrivals.calls() == sent + 2
        await server.stop(0)
        return codes, status

    codes, status = asyncio.run(run())
    assert set(codes) == {"OK", "CANCELLED"}
    assert most * 3 // 4 <= codes["OK"] <= most + 1  # one more was asked for already
    assert status == health_pb2.HealthCheckResponse.SERVING


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(backlog.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize("code", [FULL, LATE])
def test_refusals_in_words_have_a_pace(monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode) -> None:
    clock, intake, refused = Clock(monkeypatch), Intake(), 0
    for step in range(20_000):  # ten seconds, a call every half millisecond if none is held back
        clock.now = 100.0 + step * 0.0005
        if intake.pause() == 0:
            intake.ended("a", OK if step % 2 else code)
            refused += not step % 2
        assert intake.pause() <= 0.05
    assert 4000 < refused < 5100


def test_a_server_that_refuses_nobody_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    intake = Intake()
    for _ in range(100):
        intake.ended("a", OK)
        intake.ended("a", grpc.StatusCode.INVALID_ARGUMENT)
    assert intake.pause() == 0


def test_who_is_served_is_not_held_back_with_who_asks_for_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, intake = Clock(monkeypatch), Intake()
    for step in range(1000):
        clock.now = 100.0 + step * 0.01
        intake.ended("modest", OK)
        intake.ended("greedy", OK)
        intake.ended("greedy", FULL)
        assert intake.pause() == 0
    for step in range(1000, 1200):  # everybody is refused some
        clock.now = 100.0 + step * 0.01
        for client in ("modest", "greedy"):
            intake.ended(client, OK)
            intake.ended(client, FULL)
    assert intake.pause() > 0
    clock.now += 5  # and what was is forgotten
    intake.ended("greedy", FULL)
    clock.now += 5
    intake.ended("greedy", FULL)
    assert intake.pause() > 0


def test_grpc_s_calls_are_taken_in_later_and_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """That gRPC's coroutines still have the names by which they are known."""
    later, intake = [], Intake()
    original = backlog._later

    def spy(pause: float, work: Coroutine[Any, Any, Any]) -> Any:
        later.append(pause)
        return original(pause, work)

    monkeypatch.setattr(backlog, "_later", spy)

    async def run() -> list[bytes]:
        async def answer(request: bytes, context: object) -> bytes:
            for _ in range(3):
                intake.ended("a", FULL)
            return request

        intake.install(asyncio.get_running_loop())
        server = grpc.aio.server()
        server.add_registered_method_handlers("a.B", {"C": grpc.unary_unary_rpc_method_handler(answer)})
        server.add_generic_rpc_handlers((handler(answer),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/a.B/C")
            answers = [await call(bytes([number]), timeout=60) for number in range(10)]
        await server.stop(0)
        return answers

    assert asyncio.run(run()) == [bytes([number]) for number in range(10)]
    assert later
    assert all(0 < pause <= 0.05 for pause in later)


def test_a_live_server_under_too_much_answers_what_it_reads_and_counts_the_rest(
    slow_repository: Path, tmp_path: Path
) -> None:
    """One request at a time, and far more at once than may wait: each ends, and each is counted, read or not."""
    settings = "[batching]\nmax_requests = 1\n[queue]\nmax_requests = 4\n[clients]\nqueue_share = 1.0\n"
    request = request_for("slow", {"x": np.ones((1, 16, 256), np.float32)})
    with serving(slow_repository, tmp_path / "log", settings) as server, grpc.insecure_channel(server.grpc) as channel:
        predict = PredictionServiceStub(channel).Predict
        predict(request, timeout=60)
        calls = [predict.future(request, timeout=60) for _ in range(1000)]
        codes = Counter(call.code().name for call in calls)
        assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED", "CANCELLED"}
        assert codes["OK"] >= 5
        assert codes["RESOURCE_EXHAUSTED"] > 0
        assert predict(request, timeout=60).model_name == "slow"
        until(lambda: server.total("lazyneuron_requests_total", code="OK") == codes["OK"] + 2, "all are counted")
        refused = server.total("lazyneuron_requests_total", code="RESOURCE_EXHAUSTED")
        assert refused == codes["RESOURCE_EXHAUSTED"]
        arrived, taken = (server.total(f"lazyneuron_grpc_calls_{what}_total") for what in ("arrived", "taken"))
        assert (arrived, arrived - taken) == (1002, codes["CANCELLED"])
        assert server.terminate() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
