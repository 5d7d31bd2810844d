"""A call, and the calls that are parts of it."""

import contextvars

import pytest

from lazyneuron.engine.errors import InputError, QueueFullError
from lazyneuron.server.calls import Call, answering, current_call, host_of, refusal
from lazyneuron.server.metrics import Metrics


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("unix:/run/socket", "unix:/run/socket"),
        ("", ""),
    ],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_a_part_is_asked_by_who_asks_for_the_whole() -> None:
    def check() -> None:
        with answering(Metrics(), Call("/outer", client="somebody")):
            part = Call("/part")
        assert part.client == "somebody"
        assert current_call().id != part.id

    contextvars.copy_context().run(check)
    assert Call("/alone").client == ""


def test_each_end_is_counted_by_its_status() -> None:
    def check() -> None:
        metrics = Metrics()
        for error in (None, InputError("x", got="a", expected="b"), QueueFullError("q", retry_after=1), KeyError("k")):
            try:
                with answering(metrics, Call("/m")):
                    if error is not None:
                        raise error
            except (InputError, QueueFullError, KeyError):
                pass
        counts = {
            code: metrics.registry.get_sample_value(
                "lazyneuron_requests_total", {"model": "", "version": "", "code": code}
            )
            for code in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "CANCELLED")
        }
        assert counts == {
            "OK": 1, "INVALID_ARGUMENT": 1, "RESOURCE_EXHAUSTED": 1, "INTERNAL": 1, "CANCELLED": None,
        }  # fmt: skip

    contextvars.copy_context().run(check)


def test_a_fault_is_told_by_its_request_alone() -> None:
    call = Call("/m")
    code, words = refusal(call, KeyError("a secret"), log=False)
    assert (code.name, words) == ("INTERNAL", f"internal error; the server's log has it under request {call.id}")
