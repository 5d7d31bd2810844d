"""Where the self-check and the benchmarks run a graph: the CPU, or a GPU with no way round it."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.errors import ArtifactError, ConfigurationError, one_line
from lazyneuron.engine.machine import INSTRUCTION_SET_VARIABLE, processor
from lazyneuron.engine.session import operator_library

__all__ = ["CPU", "DOWN_WAYS", "Bound", "Opened", "Place", "lacking", "open_on"]

DOWN_WAYS = ("rows", "tiles")
"""How a GPU's kernels project down: each row by its own list, or tiles of rows by the union of theirs."""
_DOWN_VARIABLE = "LAZYNEURON_GPU_DOWN"
_PROVIDER = "CUDAExecutionProvider"
_Feed = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Place:
    """A device.

    Attributes
    ----------
    kind
        `cpu` or `cuda`, as ONNX Runtime names its memory.
    index
        CUDA's number of it.
    """

    kind: str
    index: int = 0

    @classmethod
    def of(cls, device: int | str) -> "Place":
        """Read `cpu`, `cuda:N` or a GPU's number.

        Raises
        ------
        ConfigurationError
            If it is none of these.
        """
        if isinstance(device, int):
            return cls("cuda", device)
        if device == "cpu":
            return CPU
        match = re.fullmatch(r"cuda:(\d{1,4})", device)
        if match is None:
            raise ConfigurationError(f"device {device!r}; expected cpu, or a GPU as cuda:0")
        return cls("cuda", int(match[1]))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def describe(self) -> str:
        """Return the device with its name; it must be there."""
        if self.kind == "cpu":
            return f"cpu ({processor()})"
        from lazyneuron.engine.gpu.driver import devices

        return f"{self} ({next(gpu.name for gpu in devices() if gpu.index == self.index)})"


CPU = Place("cpu")


def lacking(place: Place) -> str:
    """Say why a device cannot be used, in a clause; empty where it can."""
    if place == CPU:
        return ""
    if _PROVIDER not in ort.get_available_providers():
        return f"this ONNX Runtime {ort.__version__} is built without its CUDA provider; onnxruntime-gpu has it"
    from lazyneuron.engine.gpu.driver import devices, why_none

    there = {gpu.index: gpu.name for gpu in devices()}
    if not there:
        return why_none() or "the NVIDIA driver shows no GPU"
    if place.index not in there:
        return "there is " + ", ".join(f"cuda:{index} ({name})" for index, name in there.items())
    return ""


class Bound:
    """A session's inputs and output in a device's memory, run again and again without copies.

    Parameters
    ----------
    session
        The session.
    place
        Where it runs.
    feed
        The inputs.
    """

    def __init__(self, session: ort.InferenceSession, place: Place, feed: _Feed) -> None:
        self._session = session
        self._binding = session.io_binding()
        for name, array in feed.items():
            value = ort.OrtValue.ortvalue_from_numpy(array, place.kind, place.index)
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            self._binding.bind_output(output.name, place.kind, place.index)
        self._options = ort.RunOptions()
        # One run after the other, as in a model of many blocks; all are waited for at the end.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, times: int = 1) -> None:
        """Run the graph so many times, and wait for the last."""
        for _ in range(times):
            self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()


@dataclass(frozen=True, slots=True)
class Opened:
    """A session on a device."""

    session: ort.InferenceSession
    place: Place

    def run(self, outputs: Sequence[str], feed: _Feed) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Raises
        ------
        ArtifactError
            If it fails.
        """
        try:
            return dict(zip(outputs, self.session.run(list(outputs), dict(feed)), strict=True))
        except Exception as error:
            raise ArtifactError(f"it failed on {self.place}: {one_line(error)}") from error

    def bound(self, feed: _Feed) -> Bound:
        """Return the session with its inputs in the device's memory."""
        return Bound(self.session, self.place, feed)


def open_on(
    place: Place,
    model: bytes,
    *,
    instruction_set: str | None = None,
    down: str | None = None,
    threads: int = 1,
    tf32: bool = False,
) -> Opened:
    """Open a model on a device.

    Parameters
    ----------
    model
        An ONNX model.
    instruction_set
        The one that the operators' CPU kernels are to use; None: the best.
    down
        How a GPU's kernels project down, of `DOWN_WAYS`; None: as the process does.
    threads
        Intra-op threads.
    tf32
        Whether a GPU's products of float32 numbers may be TF32's.

    Raises
    ------
    ArtifactError
        If ONNX Runtime refuses the model there; on a GPU also if a node would run on the CPU instead, where it would
        agree with the CPU in vain.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(operator_library()))
    providers: list[Any] = ["CPUExecutionProvider"]
    if place != CPU:
        # The CPU's provider is always there; named beside this entry it would be refused.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(_PROVIDER, {"device_id": str(place.index), "use_tf32": str(int(tf32))})]
        _find_libraries()
    try:
        with _forced(INSTRUCTION_SET_VARIABLE, instruction_set), _forced(_DOWN_VARIABLE, down):
            session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise ArtifactError(f"ONNX Runtime refuses it on {place}: {one_line(error)}") from error
    if place != CPU and session.get_providers()[0] != _PROVIDER:
        raise ArtifactError(f"ONNX Runtime's CUDA provider failed on {place}")
    return Opened(session, place)


@contextmanager
def _forced(variable: str, value: str | None) -> Iterator[None]:
    """Set a variable of the environment for the sessions that are opened meanwhile; None: leave it."""
    if value is None:
        yield
        return
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


@cache
def _find_libraries() -> None:
    """Have ONNX Runtime find the CUDA libraries that NVIDIA's wheels bring."""
    if hasattr(ort, "preload_dlls"):  # from 1.21 on
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls()
