"""The driver's calls for memory, against a stand-in for libcuda that keeps what it is asked."""

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

from lazyneuron.engine.devices.host_memory import Driver, pageable
from lazyneuron.engine.errors import LazyneuronError


class Library:
    """libcuda's functions as Python sees them: each takes C values and gives an error's number."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.current: list[int] = []
        self.retained: list[int] = []
        self.refuses = ""

    def cuInit(self, flags: int) -> int:  # noqa: N802  the driver's name
        return 3 if self.refuses == "cuInit" else 0

    def cuDeviceGet(self, device: Any, index: Any) -> int:  # noqa: N802
        device._obj.value = index.value
        return 101 if index.value > 1 else 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        context._obj.value = 1000 + device.value
        self.retained.append(device.value)
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self.current.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self.current.pop()
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = 10 * self.current[-1], 20 * self.current[-1]
        return 0

    def cuMemHostAlloc(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        if self.refuses == "cuMemHostAlloc":
            return 2
        assert flags.value == 1
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.blocks[ctypes.addressof(block)] = block
        return 0

    def cuMemFreeHost(self, address: Any) -> int:  # noqa: N802
        assert self.current
        del self.blocks[address.value]
        return 0

    def cuGetErrorName(self, code: Any, word: Any) -> int:  # noqa: N802
        names = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 101: b"CUDA_ERROR_INVALID_DEVICE"}
        word._obj.value = names.get(code.value)
        return 0


def test_memory_of_each_device_in_its_own_context() -> None:
    library = Library()
    driver = Driver(library)
    assert [driver.memory(0), driver.memory(1), driver.memory(0)] == [
        (10_000, 20_000),
        (10_010, 20_020),
        (10_000, 20_000),
    ]
    assert library.retained == [0, 1]
    assert not library.current


def test_pinned_memory_is_freed_with_the_last_array_on_it() -> None:
    library = Library()
    block = Driver(library).pinned(0)(64)
    numbers = block.view(np.float32)[3:5]
    numbers[:] = 2
    assert block.nbytes == 64
    del block
    gc.collect()
    assert len(library.blocks) == 1
    assert numbers.tolist() == [2, 2]
    del numbers
    gc.collect()
    assert not library.blocks


def test_what_the_driver_refuses_is_named() -> None:
    library = Library()
    driver = Driver(library)
    with pytest.raises(
        LazyneuronError, match="the CUDA driver refused cuDeviceGet on cuda:5: CUDA_ERROR_INVALID_DEVICE"
    ):
        driver.memory(5)
    library.refuses = "cuMemHostAlloc"
    with pytest.raises(LazyneuronError, match="refused cuMemHostAlloc on cuda:0: CUDA_ERROR_OUT_OF_MEMORY"):
        driver.pinned(0)(8)
    library.refuses = "cuInit"
    with pytest.raises(LazyneuronError, match="the CUDA driver refused cuInit: error 3"):
        Driver(library)


def test_ordinary_memory() -> None:
    assert pageable(5).shape == (5,)
