"""The servers that are compared: how each is started on the same ONNX file, and stopped. Each is a context manager.

All have the same threads for ONNX Runtime, none of which spins, and the same largest batch. NOTES has what else is set.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import grpc

from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub

__all__ = ["CONTENDERS", "MAX_BATCH", "NOTES", "NotStartedError", "Place", "Served", "echoing", "lazyneuron_server"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MAX_BATCH = 64
"""The most requests in a batch, for everybody: our own default."""
_START_SECONDS = 300.0
"""Ray Serve takes half a minute where the cores are its own, and minutes where they are not."""

NOTES = {
    "lazyneuron": "defaults: up to 64 requests or 8,192 tokens a batch, no wait",
    "MLServer": "1.7.1, one process, no batching",
    "MLServer, batching": "1.7.1, one process, max_batch_size 64, max_batch_time 2 ms",
    "pytriton": "0.7.0, Triton's Python backend, max_batch_size 64, no queue delay",
    "Ray Serve": "2.60.0, gRPC proxy, one replica, max_batch_size 64, batch_wait_timeout_s 0",
}


@dataclass(frozen=True)
class Place:
    """What a server is given.

    Attributes
    ----------
    model
        The dense ONNX file.
    repository
        Of our artifacts.
    name
        The model's, for all of them.
    threads
        ONNX Runtime's.
    scratch
        A folder for configurations and logs.
    """

    model: Path
    repository: Path
    name: str
    threads: int
    scratch: Path


@dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes
    ----------
    address
        `HOST:PORT` of its gRPC.
    name
        What it calls the model.
    metadata
        What it wants with each call.
    http
        `HOST:PORT` of its HTTP; ours only.
    process
        Its process number; ours only.
    """

    address: str
    name: str
    metadata: tuple[tuple[str, str], ...] = ()
    http: str = ""
    process: int = 0


class NotStartedError(Exception):
    """A server does not answer; the message says what it wrote."""


Starter = Callable[[Place], AbstractContextManager[Served]]


@contextlib.contextmanager
def lazyneuron_server(place: Place, settings: str = "") -> Iterator[Served]:
    """Serve our own repository; `settings` is further TOML."""
    config, log = place.scratch / "lazyneuron.toml", place.scratch / "lazyneuron.log"
    config.write_text(f"threads = {place.threads}\n{settings}")
    command = [sys.executable, "-m", "lazyneuron", "serve", place.repository, "--config", config]
    with _process([*command, "--grpc-port", "0", "--http-port", "0"], log) as process:
        ready = _after(process, r"ready: gRPC on (.+)", log)
        address, http = ready.split(", metrics and health on http://")
        yield Served(address, place.name, http=http.rstrip("/"), process=process.pid)


@contextlib.contextmanager
def echoing(size: int, scratch: Path) -> Iterator[Served]:
    """Serve an answer of so many bytes, at once."""
    log = scratch / "echo.log"
    with _process([sys.executable, HERE / "echo.py", size], log) as process:
        yield Served(_after(process, r"ready: (\S+)", log), "echo")


@contextlib.contextmanager
def _mlserver(place: Place, *, batching: bool) -> Iterator[Served]:
    folder = place.scratch / f"mlserver-{batching}"
    folder.mkdir(exist_ok=True)
    (port, http, metrics), log = _free_ports(3), folder / "log"
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": http,
        "metrics_port": metrics,
        "parallel_workers": 0,  # else a process more that requests are pickled to: slower here
        "debug": False,
    }
    model = {
        "name": place.name,
        "implementation": "mlserver_runtime.OnnxRuntime",
        "parameters": {"uri": str(place.model), "extra": {"threads": place.threads}},
    }
    if batching:
        model |= {"max_batch_size": MAX_BATCH, "max_batch_time": 0.002}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [_peer("mlserver").with_name("mlserver"), "start", folder]
    with _process(command, log, tells=False, environment={"PYTHONPATH": str(HERE / "peers")}) as process:
        yield _ready(Served(f"127.0.0.1:{port}", place.name), process, log)


@contextlib.contextmanager
def _pytriton(place: Place) -> Iterator[Served]:
    (port, http), log = _free_ports(2), place.scratch / "pytriton.log"
    workspace = place.scratch / f"pytriton-{port}"  # it makes the folder, and stops where there is one
    script = HERE / "peers" / "pytriton_server.py"
    arguments = [place.model, place.name, port, http, place.threads, MAX_BATCH, workspace]
    command = [_peer("pytriton"), script, *arguments]
    with _process(command, log, tells=False, environment={"PYTHONPATH": ""}) as process:
        yield _ready(Served(f"127.0.0.1:{port}", place.name), process, log)


@contextlib.contextmanager
def _ray(place: Place) -> Iterator[Served]:
    (port, http), log = _free_ports(2), place.scratch / "ray.log"
    arguments = [place.model, place.name, port, http, place.threads, MAX_BATCH]
    command = [_peer("ray"), HERE / "peers" / "ray_app.py", *arguments]
    # Of lazyneuron it imports the generated messages alone, which need no more than protobuf.
    patience = {f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S": "60" for check in ("READY", "HEALTH")}
    environment = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **patience}
    with _process(command, log, environment=environment) as process:
        _after(process, r"(ready)", log)
        yield Served(f"127.0.0.1:{port}", place.name, (("application", "default"),))


CONTENDERS: Mapping[str, Starter] = {
    "lazyneuron": lazyneuron_server,
    "MLServer": lambda place: _mlserver(place, batching=False),
    "MLServer, batching": lambda place: _mlserver(place, batching=True),
    "pytriton": _pytriton,
    "Ray Serve": _ray,
}


def _peer(name: str) -> Path:
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is not there; make the peers' environments by `make bench-serve-peers`")
    return python


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody has, all different."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]


@contextlib.contextmanager
def _process(
    command: list[object], log: Path, *, tells: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a server in a process group of its own, and end all of the group; one that `tells` has a ready line."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE if tells else errors,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _after(process: "subprocess.Popen[str]", pattern: str, log: Path) -> str:
    """Return what the server's ready line tells."""
    assert process.stdout is not None
    patience = threading.Timer(_START_SECONDS, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            if (found := re.search(pattern, line)) is not None:
                return found[1]
    finally:
        patience.cancel()
    raise NotStartedError(f"no ready line within {_START_SECONDS:g} s; {log} ends: {log.read_text()[-1000:]}")


def _ready(served: Served, process: "subprocess.Popen[str]", log: Path) -> Served:
    """Wait until the model is ready, or its server has ended."""
    ends = time.monotonic() + _START_SECONDS
    with grpc.insecure_channel(served.address) as channel:
        ask = GRPCInferenceServiceStub(channel).ModelReady
        while time.monotonic() < ends and process.poll() is None:
            with contextlib.suppress(grpc.RpcError):
                if ask(pb.ModelReadyRequest(name=served.name), timeout=5).ready:
                    return served
            time.sleep(0.1)
    how = f"not ready within {_START_SECONDS:g} s" if process.poll() is None else f"ended, status {process.returncode}"
    raise NotStartedError(f"{how}; {log} ends: {log.read_text()[-1000:]}")
