"""The bounded queue: by tokens, by requests, by time, and for each client."""

import pytest

from lazyneuron.engine.errors import DeadlineExceededError, InputError, QueueFullError
from lazyneuron.server.admission import Admission, Outlook
from lazyneuron.server.config import ClientsConfig, QueueConfig

UNKNOWN = Outlook(tokens_ahead=0, tokens_per_second=0)
EVERYTHING = ClientsConfig(queue_share=1.0)


def test_room_is_taken_and_given_back() -> None:
    admission = Admission(QueueConfig(max_tokens=10, max_requests=2), EVERYTHING)
    admission.admit(6, UNKNOWN)
    with pytest.raises(QueueFullError, match="1 of 2 requests and 6 of 10 tokens wait, and this request has 5"):
        admission.admit(5, UNKNOWN)
    admission.admit(4, UNKNOWN)
    admission.release(6)
    admission.admit(6, UNKNOWN)
    with pytest.raises(QueueFullError, match="2 of 2 requests"):
        admission.admit(0, UNKNOWN)


def test_the_hint_is_the_time_the_queue_needs() -> None:
    admission = Admission(QueueConfig(max_tokens=100, max_requests=9))
    admission.admit(100, UNKNOWN)
    with pytest.raises(QueueFullError) as caught:
        admission.admit(1, Outlook(100, 50.0))
    assert caught.value.retry_after == 2.0


def test_what_can_never_fit_is_the_caller_s_fault() -> None:
    with pytest.raises(InputError, match=r"got 11 tokens; expected at most 10 \(the server's queue.max_tokens\)"):
        Admission(QueueConfig(max_tokens=10)).admit(11, UNKNOWN)


def test_one_client_gets_its_share_and_leaves_the_rest_to_others() -> None:
    admission = Admission(QueueConfig(max_tokens=100, max_requests=10), ClientsConfig(queue_share=0.5))
    admission.admit(50, UNKNOWN, "greedy")
    with pytest.raises(QueueFullError, match=r"queue_share 0\.5\): 1 of 5 requests and 50 of 50 tokens wait"):
        admission.admit(1, UNKNOWN, "greedy")
    admission.admit(50, UNKNOWN, "other")


def test_a_client_s_only_request_may_be_larger_than_its_share() -> None:
    admission = Admission(QueueConfig(max_tokens=100), ClientsConfig(queue_share=0.1))
    admission.admit(100, UNKNOWN, "large")


def test_requests_in_flight_are_counted_until_they_are_answered() -> None:
    admission = Admission(QueueConfig(), ClientsConfig(max_in_flight=2))
    for _ in range(2):
        admission.admit(1, UNKNOWN, "a")
        admission.release(1, "a")  # they run
    with pytest.raises(QueueFullError, match=r"2 of 2 requests in flight \(clients.max_in_flight\)"):
        admission.admit(1, UNKNOWN, "a")
    admission.admit(1, UNKNOWN, "b")
    admission.answered("a")
    admission.admit(1, UNKNOWN, "a")


def test_a_wait_that_is_too_long_is_refused_with_the_time_after_which_it_is_not() -> None:
    admission = Admission(QueueConfig(max_wait_seconds=2.0))
    admission.admit(10, Outlook(199, 100.0, 100))
    with pytest.raises(QueueFullError, match=r"about 5.00 s of work \(500 tokens\) is ahead .* at most 2 s") as caught:
        admission.admit(10, Outlook(500, 100.0, 100))
    assert caught.value.retry_after == 3.0


def test_a_batch_s_worth_may_wait_however_slow_the_model_is() -> None:
    admission = Admission(QueueConfig(max_wait_seconds=0.1))
    admission.admit(10, Outlook(90, 1.0, 100))
    with pytest.raises(QueueFullError):
        admission.admit(11, Outlook(90, 1.0, 100))


@pytest.mark.parametrize(("left", "words"), [(0.0, "deadline passed before"), (1.5, r"cannot be met: about 2.00 s")])
def test_a_deadline_that_cannot_be_met_is_refused_at_once(left: float, words: str) -> None:
    with pytest.raises(DeadlineExceededError, match=words):
        Admission(QueueConfig()).admit(1, Outlook(200, 100.0, 100, left))


def test_nothing_is_held_against_a_refused_request() -> None:
    admission = Admission(QueueConfig(max_tokens=10))
    with pytest.raises(DeadlineExceededError):
        admission.admit(1, Outlook(0, 1.0, 100, 0.0), "a")
    assert (admission.requests, admission.tokens, admission.pressure) == (0, 0, 0.0)


def test_a_check_takes_nothing() -> None:
    admission = Admission(QueueConfig(max_requests=1))
    admission.check(1, UNKNOWN)
    admission.admit(1, UNKNOWN)
    with pytest.raises(QueueFullError):
        admission.check(1, UNKNOWN)
    assert admission.requests == 1


def test_pressure_follows_what_binds_first() -> None:
    admission = Admission(QueueConfig(max_tokens=1000, max_requests=4, max_wait_seconds=2.0))
    admission.admit(100, UNKNOWN)
    assert admission.pressure_at(0.0, 10) == 0.25
    assert admission.pressure_at(100.0, 10) == 0.5
    assert admission.pressure_at(1.0, 10) == 1.0
