"""Which device is chosen, and in what words one is refused."""

import contextlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.devices.choice import CPU, Device, Found, asked_devices, choose
from lazyneuron.engine.errors import ConfigurationError


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str = "NVIDIA H100"


def found(*numbers: int, runtime: str = "", driver: str = "") -> Found:
    return Found(runtime, driver, [Gpu(number, f"GPU {number}") for number in numbers])


def agrees(_: int) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("auto", None), ("cpu", ()), ("cuda:0", (0,)), ("cuda:1,cuda:0", (1, 0)), ("cuda:0, cuda:12", (0, 12))],
)
def test_what_may_be_asked(text: str, numbers: tuple[int, ...] | None) -> None:
    assert asked_devices(text) == numbers


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:0,", "cuda:0;cuda:1", "cpu,cuda:0", "CPU"]
)
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="is no device; expected auto, cpu, or GPUs as cuda:0 or cuda:0,cuda:1"):
        asked_devices(text)


def test_two_named_alike() -> None:
    with pytest.raises(ValueError, match="cuda:3 is named twice; one session is opened on each device"):
        asked_devices("cuda:3,cuda:0,cuda:03")


@given(st.from_regex(r"(cuda:\d{0,2},?|cpu|auto|,| ){0,3}", fullmatch=True))
def test_any_text_is_read_or_refused_on_one_line(text: str) -> None:
    with contextlib.suppress(ValueError):
        numbers = asked_devices(text)
        assert (numbers is None) == (text == "auto")
        assert not numbers or len(set(numbers)) == len(numbers) == text.count("cuda:")


def test_the_cpu_is_taken_without_a_look() -> None:
    def look() -> Found:
        raise AssertionError

    assert choose("cpu", look, agrees).devices == (CPU,)


def test_auto_takes_the_first_gpu() -> None:
    choice = choose("auto", lambda: found(2, 1), agrees)
    assert choice.devices == (Device("cuda", 1, "GPU 1"),)
    assert choice.on_gpu
    assert choice.why == "device auto: serving on cuda:1 (GPU 1); its kernels agree with the CPU's"


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (found(0, runtime="no provider"), "no provider"),
        (found(driver="libcuda.so.1 is not there"), "libcuda.so.1 is not there"),
        (found(), "the driver shows no GPU"),
    ],
)
def test_auto_serves_on_the_cpu_and_says_why(there: Found, why: str) -> None:
    choice = choose("auto", lambda: there, agrees)
    assert choice.devices == (CPU,)
    assert choice.why == f"device auto: serving on the CPU: {why}"
    assert not choice.on_gpu
    assert not choice.alarming
    with pytest.raises(ConfigurationError, match=f"^--device cuda:0: cuda:0 cannot be used: {why}$"):
        choose("cuda:0", lambda: there, agrees)


def test_several_in_the_order_in_which_they_are_asked_for() -> None:
    devices = choose("cuda:1,cuda:0", lambda: found(0, 1, 2), agrees).devices
    assert [str(device) for device in devices] == ["cuda:1", "cuda:0"]


def test_one_that_is_not_there() -> None:
    words = "--device cuda:0,cuda:5: cuda:5 cannot be used: no such device; the driver shows cuda:0, cuda:1"
    with pytest.raises(ConfigurationError, match=f"^{words}$"):
        choose("cuda:0,cuda:5", lambda: found(1, 0), agrees)


def test_a_gpu_whose_kernels_disagree_is_refused_in_words_and_figures() -> None:
    def check(index: int) -> list[str]:
        return ["down.f16: off by 0.31\nof the largest entry; at most 0.001"] if index == 1 else []

    words = "it fails the self-check: down.f16: off by 0.31 of the largest entry; at most 0.001"
    choice = choose("auto", lambda: found(1), check)
    assert (choice.devices, choice.alarming) == ((CPU,), True)
    assert choice.why.endswith(words)
    with pytest.raises(ConfigurationError, match=words):
        choose("cuda:0,cuda:1", lambda: found(0, 1), check)
    assert choose("cuda:0", lambda: found(0, 1), check).on_gpu


def test_of_many_disagreements_a_few_are_told() -> None:
    why = choose("auto", lambda: found(0), lambda _: [f"kernel {number}" for number in range(16)]).why
    expected = "kernel 0; kernel 1; kernel 2; and 13 more, as `lazyneuron selfcheck --device cuda:0` tells"
    assert why.endswith(f"it fails the self-check: {expected}")
