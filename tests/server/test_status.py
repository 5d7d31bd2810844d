"""Each of our errors has a status of its own choosing."""

import grpc
import pytest

from lazyneuron.engine import errors
from lazyneuron.server.status import HTTP_STATUS, STATUS, message, status_of, trailing_metadata


def _all(kind: type[errors.LazyneuronError]) -> set[type[errors.LazyneuronError]]:
    return {kind}.union(*(_all(child) for child in kind.__subclasses__()))


def test_the_table_is_complete() -> None:
    ours = {kind for kind in _all(errors.LazyneuronError) if kind.__module__ == errors.__name__}
    assert set(STATUS) == ours


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x", got="a", expected="b"), "INVALID_ARGUMENT"),
        (errors.ModelNotFoundError("m"), "NOT_FOUND"),
        (errors.QueueFullError("q", retry_after=1), "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExceededError("d"), "DEADLINE_EXCEEDED"),
        (errors.ShuttingDownError("s"), "UNAVAILABLE"),
        (errors.UnsupportedError("u"), "UNIMPLEMENTED"),
        (errors.LazyneuronError("?"), "INTERNAL"),
    ],
)
def test_the_design_s_statuses(error: errors.LazyneuronError, code: str) -> None:
    assert status_of(error) is grpc.StatusCode[code]


def test_a_full_queue_tells_when_to_come_back() -> None:
    metadata = dict(trailing_metadata(errors.QueueFullError("full", retry_after=0.25)))
    assert metadata == {"lazyneuron-error": "QueueFullError", "grpc-retry-pushback-ms": "250"}


def test_a_message_is_bounded() -> None:
    assert len(message(errors.ModelNotFoundError("x" * 100_000))) < 1100


def test_every_grpc_status_has_an_http_one() -> None:
    assert set(HTTP_STATUS) == set(grpc.StatusCode)
    assert {code for code, number in HTTP_STATUS.items() if number < 300} == {grpc.StatusCode.OK}
