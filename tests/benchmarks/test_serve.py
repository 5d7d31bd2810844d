"""The commands of benchmarks/serve, shortened: they start, and they judge as they say."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serve"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_a_server_under_faults_loses_and_keeps_nothing() -> None:
    told = run("soak.py", "--seconds", 3, "--clients", 2, "--cases", 60)
    assert "0 wrong; memory" in told


def test_no_wrong_answers() -> None:
    told = run("correctness.py", "--requests", 1000, "--cases", 100, "--concurrency", 16)
    assert told.startswith("1,000 requests in ")
    assert "\n0 wrong answers of " in told


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch):
    """The benchmarks' own modules, which are scripts."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import correctness
    import driving
    import soak
    import traffic

    yield SimpleNamespace(correctness=correctness, driving=driving, soak=soak, traffic=traffic)
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_another_request_s_answer_is_noticed(serve) -> None:
    answers = np.random.default_rng(0).normal(size=(2, 1, 16)).astype(np.float32)
    case = serve.traffic.Case("mlp", {}, 1.0, answers[0])
    assert case.is_answered_by(answers[0] * np.float32(1 + 1e-6))
    assert not case.is_answered_by(answers[1])
    assert not case.is_answered_by(answers[0][:, :8])


@pytest.mark.parametrize(
    ("counted", "fault"),
    [
        ({"OK": 90, "CANCELLED": 8, "INVALID_ARGUMENT": 2}, None),
        ({"OK": 91, "CANCELLED": 7, "INVALID_ARGUMENT": 2}, None),  # one was answered when its client had gone
        ({"OK": 90, "CANCELLED": 5, "INVALID_ARGUMENT": 2}, None),  # three were cancelled before they were sent
        ({"OK": 89, "CANCELLED": 9, "INVALID_ARGUMENT": 2}, "OK: clients saw 90"),
        ({"OK": 99, "CANCELLED": 7, "INVALID_ARGUMENT": 2}, "OK: clients saw 90"),
        ({"OK": 90, "CANCELLED": 9, "INVALID_ARGUMENT": 2}, "100 were sent and 101 counted"),
        ({"OK": 90, "CANCELLED": 8, "INVALID_ARGUMENT": 2, "waiting": 1}, "1 still wait"),
    ],
)
def test_what_server_and_clients_count_is_compared(serve, counted: dict[str, int], fault: str | None) -> None:
    seen = Counter({"sent": 100, "OK": 90, "CANCELLED": 8, "INVALID_ARGUMENT": 2})
    found = serve.correctness.disagreements(seen, Counter(counted))
    assert found == [] if fault is None else any(line.startswith(fault) for line in found)


def test_the_open_loop_counts_from_the_time_that_was_meant(serve, tmp_path: Path) -> None:
    """A server that stands still for a second is charged for everyone who would have come."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    stalled, lock = threading.Event(), threading.Lock()

    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        with lock:  # one at a time, as an engine
            if not stalled.is_set():
                stalled.set()
                threading.Event().wait(1.0)
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    target = serve.driving.Target(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", [b"x"])
    server.start()
    stalled.set()  # not for the call that warms up
    threading.Timer(1.0, stalled.clear).start()
    seen = serve.driving.open_loop(target, rate=100, seconds=4, processes=1)
    server.stop(0).wait()
    assert seen.statuses == {"OK": len(seen.codes)}
    assert 250 < len(seen.codes) < 550
    late = np.count_nonzero(seen.seconds > 0.3)
    assert late > 30, "about 70 were meant to be sent in the first 0.7 seconds of the standstill"
