"""The interpreter of the kernels, one for all tests."""

import importlib.util
from collections.abc import Iterator

import pytest

from tests.engine.gpu.interpreter import Interpreter


@pytest.fixture(scope="session")
def gpu() -> Iterator[Interpreter]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()
