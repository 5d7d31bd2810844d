"""Where the self-check and the benchmarks run a graph: the CPU, or a GPU with no way round it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.errors import ArtifactError, one_line
from lazyneuron.engine.machine import INSTRUCTION_SET_VARIABLE, processor
from lazyneuron.engine.session import open_session

__all__ = ["DOWN_WAYS", "Bound", "Opened", "described", "open_on"]

DOWN_WAYS = ("rows", "tiles")
"""How a GPU's kernels project down: each row by its own list, or tiles of rows by the union of theirs."""
_DOWN_VARIABLE = "LAZYNEURON_GPU_DOWN"
_Feed = Mapping[str, NDArray[np.generic]]


def described(device: Device) -> str:
    """Return a device with its name; it must be there."""
    if device == CPU:
        return f"{device} ({processor()})"
    from lazyneuron.engine.gpu.driver import devices

    return f"{device} ({next(gpu.name for gpu in devices() if gpu.index == device.index)})"


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

    def __init__(self, session: ort.InferenceSession, place: Device, feed: _Feed) -> None:
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
    place: Device

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
    place: Device,
    model: bytes,
    *,
    instruction_set: str | None = None,
    down: str | None = None,
) -> Opened:
    """Open a model on a device, with one intra-op thread and without TF32.

    Parameters
    ----------
    model
        An ONNX model.
    instruction_set
        The one that the operators' CPU kernels are to use; None: the best.
    down
        How a GPU's kernels project down, of `DOWN_WAYS`; None: as the process does.

    Raises
    ------
    ArtifactError
        If ONNX Runtime refuses the model there; on a GPU also if a node would run on the CPU instead, where it would
        agree with the CPU in vain.
    """
    with _forced(INSTRUCTION_SET_VARIABLE, instruction_set), _forced(_DOWN_VARIABLE, down):
        session = open_session(model, threads=1, device=place, provider_options={"use_tf32": "0"}, cpu_fallback=False)
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
