"""The CUDA devices of this machine, as the operator library's own look at the NVIDIA driver finds them.

Needs neither CUDA's toolkit nor triton; without a driver there are no devices, and `why_none` tells why.
"""

import ctypes
import functools
from dataclasses import dataclass

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.session import operator_library

__all__ = ["GpuDevice", "devices", "why_none"]

_REASON_BYTES = 1024


@dataclass(frozen=True)
class GpuDevice:
    """A CUDA device.

    Attributes
    ----------
    index : int
        As ONNX Runtime's `device_id`; `CUDA_VISIBLE_DEVICES` has been applied.
    name : str
        As the driver tells it, "NVIDIA H100 80GB HBM3".
    compute_capability : tuple of int
        Major and minor, (9, 0).
    multiprocessors : int
    memory_bytes : int
        All of it.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return (
            f"cuda:{self.index} ({self.name}, compute capability {major}.{minor}, {self.memory_bytes / 2**30:.0f} GiB)"
        )


class _Device(ctypes.Structure):
    """`LazyneuronCudaDevice` in engine/native/cuda/introspection.cc."""

    _fields_ = (
        ("name", ctypes.c_char * 256),
        ("major", ctypes.c_int32),
        ("minor", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("memory_bytes", ctypes.c_uint64),
    )


def devices() -> list[GpuDevice]:
    """Return the CUDA devices, in the driver's order; none without a driver or a device.

    Raises
    ------
    ConfigurationError
        If the operator library was not built, or a device that is there cannot be asked.
    """
    count, _ = _count()
    return [_describe(index) for index in range(count)]


def why_none() -> str | None:
    """Say in words why there is no CUDA device; None where there is one.

    Raises
    ------
    ConfigurationError
        If the operator library was not built.
    """
    count, reason = _count()
    return None if count > 0 else reason


def _count() -> tuple[int, str]:
    why = ctypes.create_string_buffer(_REASON_BYTES)
    count: int = _library().lazyneuron_cuda_devices(why, len(why))
    return count, _text(why)


def _describe(index: int) -> GpuDevice:
    why = ctypes.create_string_buffer(_REASON_BYTES)
    found = _Device()
    if not _library().lazyneuron_cuda_device(index, ctypes.byref(found), why, len(why)):
        raise ConfigurationError(f"cuda:{index}: {_text(why)}")
    return GpuDevice(
        index=index,
        name=found.name.decode(errors="replace"),
        compute_capability=(found.major, found.minor),
        multiprocessors=found.multiprocessors,
        memory_bytes=found.memory_bytes,
    )


def _text(why: "ctypes.Array[ctypes.c_char]") -> str:
    return why.value.decode(errors="replace")


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(operator_library()))
    library.lazyneuron_cuda_devices.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    library.lazyneuron_cuda_device.argtypes = (
        ctypes.c_int,
        ctypes.POINTER(_Device),
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    return library
