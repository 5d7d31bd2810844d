"""What a measurement of speed depends on: the processor, the operators' instruction set and the versions."""

import ctypes
import os
import platform
from pathlib import Path

import onnxruntime as ort
from pydantic import BaseModel, ConfigDict

from lazyneuron import __version__
from lazyneuron.engine.session import operator_library

__all__ = [
    "INSTRUCTION_SET_VARIABLE",
    "Machine",
    "cache_folder",
    "instruction_set",
    "instruction_sets",
    "processor",
    "this_machine",
]

INSTRUCTION_SET_VARIABLE = "LAZYNEURON_ISA"
"""Forces an instruction set on the sessions that are opened while it is set."""


class Machine(BaseModel):
    """What a measurement of speed depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    instruction_set: str
    """That of the operators' kernels."""
    onnxruntime: str
    lazyneuron: str

    def differences(self, other: "Machine") -> str | None:
        """Say in words how `other` differs; None where it is the same."""
        unlike = [
            f"{name.replace('_', ' ')} {ours!r} instead of {theirs!r}"
            for name, ours in self
            if (theirs := getattr(other, name)) != ours
        ]
        return ", ".join(unlike) or None

    def __str__(self) -> str:
        return f"{self.cpu} ({self.instruction_set}), ONNX Runtime {self.onnxruntime}, lazyneuron {self.lazyneuron}"


def cache_folder() -> Path:
    """Return the folder for what was measured here: `lazyneuron` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    # The specification: a relative path is to be ignored.
    return (Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache") / "lazyneuron"


def this_machine() -> Machine:
    """Describe the machine that this runs on.

    Raises
    ------
    ConfigurationError
        If the operator library was not built.
    """
    return Machine(
        cpu=processor(), instruction_set=instruction_set(), onnxruntime=str(ort.__version__), lazyneuron=__version__
    )


def instruction_set() -> str:
    """Return the name of the instruction set that the operators run on; `LAZYNEURON_ISA` forces one."""
    return os.environ.get(INSTRUCTION_SET_VARIABLE) or instruction_sets()[0]


def instruction_sets() -> list[str]:
    """Return the names of those that the operators have and this machine can run, the best first."""
    library = ctypes.CDLL(str(operator_library()))
    library.lazyneuron_instruction_sets.restype = ctypes.c_char_p
    names: bytes = library.lazyneuron_instruction_sets()
    return [name.strip() for name in names.decode().split(",")]


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"
