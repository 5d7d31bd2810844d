"""Which of ONNX Runtime's words mean that a device has no memory left."""

import pytest

from lazyneuron.engine.devices.failures import is_out_of_memory

ARENA = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: bfc_arena.cc:376"


@pytest.mark.parametrize(
    "message",
    [
        f"{ARENA} Failed to allocate memory for requested buffer of size 4294967296",
        f"{ARENA} Available memory of 1024 is smaller than requested bytes of 2048",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc(&p, size)",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "lazyneuron: kernel down.f16 on cuda:0: CUDA_ERROR_OUT_OF_MEMORY",
    ],
)
def test_out_of_memory(message: str) -> None:
    assert is_out_of_memory(message)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "CUDA failure 700: an illegal memory access was encountered",
        "indices element out of data bounds, idx=1000000",
    ],
)
def test_other_failures(message: str) -> None:
    assert not is_out_of_memory(message)
