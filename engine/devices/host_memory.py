"""Host memory that batches are copied from and to: ordinary, or pinned, which a GPU copies at the bus's full speed."""

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.errors import LazyneuronError

__all__ = ["Allocate", "Driver", "cuda_driver", "pageable"]

Allocate = Callable[[int], NDArray[np.uint8]]
"""Gives so many bytes of host memory, aligned for any type; they are freed with the array."""

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


def pageable(size: int) -> NDArray[np.uint8]:
    """Return ordinary memory."""
    return np.empty(size, np.uint8)


class Driver:
    """The few calls of the CUDA driver that serving makes itself, in the primary context, which ONNX Runtime uses too.

    Parameters
    ----------
    library
        `libcuda`, or what stands in for it.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401  ctypes gives functions no types
        self._library = library
        self._lock = threading.RLock()  # memory may be freed, by a collection, in the midst of another call
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self._call("cuInit", 0)

    def memory(self, index: int) -> tuple[int, int]:
        """Return a device's free bytes and all of its bytes.

        Raises
        ------
        LazyneuronError
            If the driver refuses; the call, the device and the driver's word for the error are in it.
        """
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self._on(index):
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total), index=index)
        return free.value, total.value

    def pinned(self, index: int) -> Allocate:
        """Return what allocates pinned memory for copies to and from a device."""

        def allocate(size: int) -> NDArray[np.uint8]:
            address = ctypes.c_void_p()
            with self._on(index):
                self._call(
                    "cuMemHostAlloc",
                    ctypes.byref(address),
                    ctypes.c_size_t(max(size, 1)),
                    ctypes.c_uint(_PORTABLE),
                    index=index,
                )
            assert address.value is not None
            block = (ctypes.c_ubyte * size).from_address(address.value)
            # Not at the interpreter's end: the driver may be gone before.
            weakref.finalize(block, self._free, index, address.value).atexit = False
            return np.frombuffer(memoryview(block), np.uint8)

        return allocate

    def _free(self, index: int, address: int) -> None:
        with self._on(index):
            self._library.cuMemFreeHost(ctypes.c_void_p(address))

    @contextmanager
    def _on(self, index: int) -> Iterator[None]:
        """Make a device's primary context the calling thread's for as long as this lasts."""
        with self._lock:
            context = self._contexts.get(index)
            if context is None:
                device, context = ctypes.c_int(), ctypes.c_void_p()
                self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index), index=index)
                self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device, index=index)
                self._contexts[index] = context
        self._call("cuCtxPushCurrent_v2", context, index=index)
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: object, index: int | None = None) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            word = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(word))
            what = word.value.decode() if word.value else f"error {code}"
            where = "" if index is None else f" on cuda:{index}"
            raise LazyneuronError(f"the CUDA driver refused {name}{where}: {what}")


@cache
def cuda_driver() -> Driver:
    """Return the machine's CUDA driver.

    Raises
    ------
    LazyneuronError
        If there is none, or it cannot be used.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise LazyneuronError(f"the CUDA driver cannot be opened: {error}") from error
    return Driver(library)
