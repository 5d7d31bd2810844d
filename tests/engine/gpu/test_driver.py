"""The devices of this machine: what the library tells, in Python's words; and that none is an answer, too."""

import ctypes

import pytest

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.gpu import driver


class StandIn:
    """The library's two functions on a machine with these devices; each may fail with a reason."""

    def __init__(self, devices: list[dict], why: str = "", fails: str = "") -> None:
        self._devices, self._why, self._fails = devices, why, fails

    def lazyneuron_cuda_devices(self, why: ctypes.Array, size: int) -> int:
        assert size == len(why)
        why.value = self._why.encode()
        return len(self._devices)

    def lazyneuron_cuda_device(self, index: int, out, why: ctypes.Array, size: int) -> int:
        why.value = self._fails.encode()
        device = ctypes.cast(out, ctypes.POINTER(driver._Device)).contents
        for name, value in self._devices[index].items():
            setattr(device, name, value)
        return int(not self._fails)


H100 = {"name": b"NVIDIA H100", "major": 9, "minor": 0, "multiprocessors": 132, "memory_bytes": 80 << 30}


def use(monkeypatch: pytest.MonkeyPatch, library: StandIn) -> None:
    monkeypatch.setattr(driver, "_library", lambda: library)


def test_a_machine_with_or_without_a_gpu_gives_an_answer() -> None:
    found, reason = driver.devices(), driver.why_none()
    assert bool(found) == (reason is None)
    if reason is not None:
        assert "NVIDIA driver" in reason or "libcuda" in reason
        assert "\n" not in reason


def test_no_such_device_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match=r"cuda:4096: .+"):
        driver._describe(4096)


def test_devices_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, StandIn([H100, {**H100, "name": b"NVIDIA A10", "major": 8, "minor": 6}]))
    first, second = driver.devices()
    assert first == driver.GpuDevice(0, "NVIDIA H100", (9, 0), 132, 80 << 30)
    assert (second.index, second.compute_capability) == (1, (8, 6))
    assert str(second) == "cuda:1 (NVIDIA A10, compute capability 8.6, 80 GiB)"
    assert driver.why_none() is None


def test_none_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, StandIn([], why="there is no NVIDIA driver"))
    assert driver.devices() == []
    assert driver.why_none() == "there is no NVIDIA driver"


def test_a_device_that_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, StandIn([H100], fails="CUDA_ERROR_OUT_OF_MEMORY (out of memory)"))
    with pytest.raises(ConfigurationError, match="cuda:0: CUDA_ERROR_OUT_OF_MEMORY"):
        driver.devices()


def test_the_description_has_the_librarys_layout() -> None:
    assert ctypes.sizeof(driver._Device) == 256 + 4 * 4 + 8
    assert driver._Device.memory_bytes.offset == 272
