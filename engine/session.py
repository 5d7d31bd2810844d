"""ONNX Runtime with lazyneuron's operator library, on the CPU or on a GPU."""

import io
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort

from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.errors import ArtifactError, ConfigurationError, one_line

__all__ = [
    "CUDA_PROVIDER",
    "Runnable",
    "Sessions",
    "find_cuda_libraries",
    "open_session",
    "operator_library",
    "usable_cores",
]

ort.disable_telemetry_events()  # some builds have it, and send it without being asked

CUDA_PROVIDER = "CUDAExecutionProvider"
_LIBRARY = Path(__file__).parent / "lib" / "liblazyneuron_ops.so"


def operator_library() -> Path:
    """Return the path of the operator library, for `onnxruntime.SessionOptions.register_custom_ops_library`.

    Raises
    ------
    ConfigurationError
        If the library was not built.
    """
    if not _LIBRARY.is_file():
        raise ConfigurationError(f"{_LIBRARY}: no such file; install lazyneuron again, or build it with `make setup`")
    return _LIBRARY


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def find_cuda_libraries() -> None:
    """Have ONNX Runtime find the CUDA libraries that NVIDIA's wheels bring."""
    if hasattr(ort, "preload_dlls"):  # from 1.21 on
        with redirect_stdout(io.StringIO()):  # where our ready line goes
            ort.preload_dlls()


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    sparse: bool = True,
    spinning: bool = False,
    device: Device = CPU,
    provider_options: Mapping[str, str] | None = None,
    cpu_fallback: bool = True,
) -> ort.InferenceSession:
    """Open an ONNX model in ONNX Runtime.

    Parameters
    ----------
    model
        The ONNX file, whose external data lies beside it; or what stands in one.
    threads
        Intra-op threads; None: one a usable core.
    sparse
        Whether to register the operator library.
    spinning
        Whether idle threads spin for a while. With nothing else on the cores a call is some percent quicker; else they
        take the cores from the server, from other models and from other processes.
    device
        Where it runs.
    provider_options
        Those of ONNX Runtime's CUDA provider, beside the device's number.
    cpu_fallback
        Whether what a GPU has no kernel for runs on the CPU; else it is refused.

    Raises
    ------
    ArtifactError
        If ONNX Runtime refuses the model, or a GPU's provider cannot be had: ONNX Runtime would go on without it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    # Fatal ones alone: an error is raised as well, and an artifact's warnings are of no use to who serves it. A line on
    # standard error for each request that fails would wait for whoever reads there.
    options.log_severity_level = 4
    if sparse:
        options.register_custom_ops_library(str(operator_library()))
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != CPU:
        find_cuda_libraries()
        # The provider's warnings come on standard error past the session's own level.
        ort.set_default_logger_severity(3)
        if not cpu_fallback:  # the CPU's provider is always there; named beside this entry it would be refused
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            providers.clear()
        providers.insert(0, (CUDA_PROVIDER, {"device_id": str(device.index), **(provider_options or {})}))
    name = "a model in memory" if isinstance(model, bytes) else model
    try:
        source = model if isinstance(model, bytes) else str(model)
        # A provider that fails would else be left out with lines on standard output, where ours go.
        session = ort.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except Exception as error:
        where = "" if device == CPU else f" on {device}"
        raise ArtifactError(f"{name}: ONNX Runtime refuses it{where}: {one_line(error)}") from error
    if device != CPU and session.get_providers()[0] != CUDA_PROVIDER:
        raise ArtifactError(f"{name}: ONNX Runtime opened it on the CPU, since its CUDA provider failed on {device}")
    return session


class Runnable(Protocol):
    """What a `Sessions` holds: an ONNX Runtime session, or one with its buffers (`devices.binding`)."""

    def run(self, fetches: Sequence[str], feed: Mapping[str, Any], /) -> list[Any]:
        """Run the graph on a batch's inputs, and return what is fetched."""


class Sessions:
    """One graph in one or several sessions, each run on the least busy. Safe to call from several threads.

    Parameters
    ----------
    sessions
        At least one, of the same graph.
    """

    def __init__(self, sessions: Sequence[Runnable]) -> None:
        self._sessions = tuple(sessions)
        self._running = [0] * len(self._sessions)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def run(self, fetches: Sequence[str], feed: Mapping[str, Any]) -> list[Any]:
        """Run the graph; ONNX Runtime's own errors pass through."""
        if len(self._sessions) == 1:
            return self._sessions[0].run(fetches, feed)
        with self._lock:
            index = self._running.index(min(self._running))
            self._running[index] += 1
        try:
            values: list[Any] = self._sessions[index].run(fetches, feed)
        finally:
            with self._lock:
                self._running[index] -= 1
        return values

    def apart(self) -> list["Sessions"]:
        """Return each session by itself."""
        return [Sessions([session]) for session in self._sessions]
