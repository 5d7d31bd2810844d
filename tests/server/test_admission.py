"""The bounded queue."""

import pytest

from lazyneuron.engine.errors import InputError, QueueFullError
from lazyneuron.server.admission import Admission
from lazyneuron.server.config import QueueConfig


def test_room_is_taken_and_given_back() -> None:
    admission = Admission(QueueConfig(max_tokens=10, max_requests=2))
    admission.admit(6, tokens_per_second=0)
    with pytest.raises(QueueFullError, match="1 of 2 requests and 6 of 10 tokens wait, and this request has 5"):
        admission.admit(5, tokens_per_second=0)
    admission.admit(4, tokens_per_second=0)
    admission.release(6)
    admission.admit(6, tokens_per_second=0)
    with pytest.raises(QueueFullError, match="2 of 2 requests"):
        admission.admit(0, tokens_per_second=0)


def test_the_hint_is_the_time_the_queue_needs() -> None:
    admission = Admission(QueueConfig(max_tokens=100, max_requests=9))
    admission.admit(100, tokens_per_second=0)
    with pytest.raises(QueueFullError) as caught:
        admission.admit(1, tokens_per_second=50)
    assert caught.value.retry_after == 2.0


def test_what_can_never_fit_is_the_caller_s_fault() -> None:
    with pytest.raises(InputError, match=r"got 11 tokens; expected at most 10 \(the server's queue.max_tokens\)"):
        Admission(QueueConfig(max_tokens=10)).admit(11, tokens_per_second=0)
