"""Every test with the fixture `isa` runs on each instruction set; those that a machine lacks are skipped."""

import pytest

from tests.engine.native import operators


@pytest.fixture(params=operators.INSTRUCTION_SETS, scope="session")
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in operators.supported():
        pytest.skip(f"this machine has no {request.param}")
    return request.param
