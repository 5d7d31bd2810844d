"""Which devices a server runs on: what was asked for against what is there. Pure; `found.py` looks at the machine."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lazyneuron.engine.errors import ConfigurationError, one_line

__all__ = ["CPU", "Choice", "Device", "Found", "Gpu", "asked_devices", "choose"]

_EXPECTED = "expected auto, cpu, or GPUs as cuda:0 or cuda:0,cuda:1"
_MOST_TOLD = 3  # disagreements in one line
_GPU = re.compile(r"cuda:(\d{1,4})")


class Gpu(Protocol):
    """What is known of a GPU (`engine.gpu.driver.GpuDevice`)."""

    @property
    def index(self) -> int:
        """CUDA's number of it."""

    @property
    def name(self) -> str:
        """As `NVIDIA H100 80GB HBM3`."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that sessions open on.

    Attributes
    ----------
    kind
        `cpu` or `cuda`.
    index
        CUDA's number of it; of the CPU 0.
    name
        What the driver calls it; of the CPU empty.
    """

    kind: Literal["cpu", "cuda"]
    index: int = 0
    name: str = ""

    @classmethod
    def of(cls, text: str) -> "Device":
        """Read `cpu` or `cuda:N`.

        Raises
        ------
        ConfigurationError
            If it is neither.
        """
        if text == "cpu":
            return CPU
        match = _GPU.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"device {text!r}; expected cpu, or a GPU as cuda:0")
        return cls("cuda", int(match[1]))

    def __str__(self) -> str:
        """As `--device` takes it: `cpu` or `cuda:0`."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")


@dataclass(frozen=True, slots=True)
class Found:
    """What this machine has for CUDA.

    Attributes
    ----------
    runtime_lacks
        Why this ONNX Runtime cannot use CUDA, a clause of a sentence; empty where it can.
    driver_lacks
        Why the driver shows no GPU, likewise; empty where it shows some.
    gpus
        Those that it shows.
    """

    runtime_lacks: str
    driver_lacks: str
    gpus: Sequence[Gpu] = ()

    def lacking(self, number: int) -> str:
        """Say why a GPU cannot be used, likewise; empty where it can."""
        if self.runtime_lacks:
            return self.runtime_lacks
        if self.driver_lacks or not self.gpus:
            return self.driver_lacks or "the driver shows no GPU"
        there = [gpu.index for gpu in self.gpus]
        if number not in there:
            return f"no such device; the driver shows {', '.join(f'cuda:{index}' for index in sorted(there))}"
        return ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where models run.

    Attributes
    ----------
    devices
        At least one: the CPU alone, or GPUs.
    why
        For the log, a sentence without its full stop; empty where nobody needs to be told.
    alarming
        Whether a GPU is there that is not used, since it fails the self-check.
    """

    devices: tuple[Device, ...]
    why: str = ""
    alarming: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether these are GPUs."""
        return self.devices != (CPU,)


def asked_devices(text: str) -> tuple[int, ...] | None:
    """Return the numbers of the GPUs that `--device` names: none for `cpu`; None for `auto`.

    Raises
    ------
    ValueError
        If it names no device, or one twice; the message says what was got and expected.
    """
    if text in {"auto", "cpu"}:
        return None if text == "auto" else ()
    numbers = []
    for part in text.split(","):
        match = _GPU.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is no device; {_EXPECTED}")
        if int(match[1]) in numbers:
            raise ValueError(f"cuda:{int(match[1])} is named twice; one session is opened on each device")
        numbers.append(int(match[1]))
    return tuple(numbers)


def choose(asked: str, look: Callable[[], Found], check: Callable[[int], Sequence[object]]) -> Choice:
    """Choose the devices: those asked for, or under `auto` the first GPU where all that it needs is there.

    Parameters
    ----------
    asked
        `auto`, `cpu`, or GPUs as `cuda:0,cuda:1`.
    look
        Finds what there is; not called for `cpu`.
    check
        Runs a GPU's kernels against the CPU's, and gives what disagrees, one entry a kernel, whose text has the
        kernel and the figures; called for each GPU that would be used.

    Raises
    ------
    ConfigurationError
        If a GPU is asked for by number and cannot be used: what was asked and why not, on one line.
    """
    numbers = asked_devices(asked)
    if numbers == ():
        return Choice((CPU,))
    found = look()
    if numbers is None:
        first = min((gpu.index for gpu in found.gpus), default=0)
        lacking = found.lacking(first)
        if reason := lacking or _disagreeing(first, check):
            return Choice((CPU,), f"device auto: serving on the CPU: {reason}", alarming=not lacking)
        numbers = (first,)
    else:
        for number in numbers:
            if reason := found.lacking(number) or _disagreeing(number, check):
                raise ConfigurationError(f"--device {asked}: cuda:{number} cannot be used: {reason}")
    names = {gpu.index: gpu.name for gpu in found.gpus}
    devices = tuple(Device("cuda", number, names[number]) for number in numbers)
    told = ", ".join(f"{device} ({device.name})" for device in devices)
    return Choice(devices, f"device {asked}: serving on {told}; its kernels agree with the CPU's")


def _disagreeing(number: int, check: Callable[[int], Sequence[object]]) -> str:
    wrong = [one_line(entry) for entry in check(number)]
    if not wrong:
        return ""
    more = len(wrong) - _MOST_TOLD
    told = [*wrong[:_MOST_TOLD], f"and {more} more, as `lazyneuron selfcheck --device cuda:{number}` tells"]
    return f"it fails the self-check: {'; '.join(told if more > 0 else wrong)}"
