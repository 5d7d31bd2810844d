"""What is sent again and what is not, against a server whose answers the test decides."""

import asyncio
import contextlib
import socket
import threading
import time

import grpc
import pytest

from lazyneuron.client import AsyncClient, Client, Retries
from lazyneuron.engine import errors
from lazyneuron.protocol import prediction_pb2 as pb
from tests.support.scripted import Scripted, scripted, until

QUICK = Retries(attempts=4, first_wait=0.01, longest_wait=0.05)


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, *metadata: tuple[str, str]) -> None:
    context.set_trailing_metadata(metadata)
    context.abort(code, "refused")


def first_refused(times: int, code: grpc.StatusCode, *metadata: tuple[str, str]):
    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        if number <= times:
            refuse(context, code, *metadata)
        return pb.PredictResponse(model_name=f"call {number}")

    return answer


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"])
def test_a_refused_call_is_sent_again(code: str) -> None:
    with scripted(first_refused(3, grpc.StatusCode[code])) as server, Client(server.address, retries=QUICK) as client:
        assert client.predict("m", "text").model_name == "call 4"


async def ask(server: Scripted) -> str:
    async with AsyncClient(server.address, retries=QUICK) as client:
        return (await client.predict("m", "text")).model_name


def test_the_asynchronous_client_sends_again_too() -> None:
    with scripted(first_refused(3, grpc.StatusCode.UNAVAILABLE)) as server:
        assert asyncio.run(ask(server)) == "call 4"


def test_after_the_last_attempt_the_error_is_raised() -> None:
    with (
        scripted(first_refused(99, grpc.StatusCode.UNAVAILABLE)) as server,
        Client(server.address, retries=Retries(3, 0.01, 0.05)) as client,
        pytest.raises(errors.ServingError),
    ):
        client.predict("m", "text")
    assert server.calls == 3


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED", "UNAUTHENTICATED"])
def test_other_errors_are_not_sent_again(code: str) -> None:
    with (
        scripted(first_refused(1, grpc.StatusCode[code])) as server,
        Client(server.address, retries=QUICK) as client,
        pytest.raises(errors.LazyneuronError),
    ):
        client.predict("m", "text")
    assert server.calls == 1


def test_without_retries_nothing_is_sent_again() -> None:
    with (
        scripted(first_refused(1, grpc.StatusCode.UNAVAILABLE)) as server,
        Client(server.address, retries=Retries(attempts=1)) as client,
        pytest.raises(errors.ServingError),
    ):
        client.predict("m", "text")
    assert server.calls == 1


def test_the_server_says_when_to_come_back() -> None:
    """Its pushback is longer than all of the client's own waits."""
    came: list[float] = []

    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        came.append(time.monotonic())
        if number == 1:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, ("grpc-retry-pushback-ms", "400"))
        return pb.PredictResponse()

    with scripted(answer) as server, Client(server.address, retries=QUICK) as client:
        client.predict("m", "text")
    assert came[1] - came[0] >= 0.39


def test_a_server_that_wants_no_retry_gets_none() -> None:
    with (
        scripted(first_refused(1, grpc.StatusCode.RESOURCE_EXHAUSTED, ("grpc-retry-pushback-ms", "-1"))) as server,
        Client(server.address, retries=QUICK) as client,
        pytest.raises(errors.ServingError),
    ):
        client.predict("m", "text")
    assert server.calls == 1


def test_large_requests_are_sent_again_as_well() -> None:
    """gRPC alone keeps no more than 256 KiB of a request."""
    with scripted(first_refused(1, grpc.StatusCode.UNAVAILABLE)) as server, Client(server.address, retries=QUICK) as c:
        assert c.predict("m", bytes(2**20)).model_name == "call 2"


def test_retries_end_with_the_timeout() -> None:
    with (
        scripted(first_refused(1, grpc.StatusCode.RESOURCE_EXHAUSTED, ("grpc-retry-pushback-ms", "60000"))) as server,
        Client(server.address, retries=QUICK) as client,
        pytest.raises(errors.ServingError),
    ):
        client.predict("m", "text", timeout=0.3)


@pytest.mark.parametrize("values", [(0, 0.1, 1), (6, 0.1, 1), (3, 0, 1), (3, 2, 1), (3, 1, float("inf"))])
def test_retries_that_cannot_be(values: tuple[int, float, float]) -> None:
    with pytest.raises(errors.ConfigurationError, match="expected"):
        Retries(*values)


def test_the_deadline_travels() -> None:
    remaining: list[float | None] = []

    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        remaining.append(context.time_remaining())
        return pb.PredictResponse()

    with scripted(answer) as server, Client(server.address, timeout=50) as client:
        client.predict("m", "text")
        client.predict("m", "text", timeout=5)
        list(client.predict_many("m", ["text"], timeout=7))
    for left, given in zip(remaining, (50, 5, 7), strict=True):
        assert left is not None
        assert given - 4 < left < given + 0.5  # it travels in rounded milliseconds


class Frozen:
    """Passes one connection on to a server until it is frozen: then no byte comes through, and no end either."""

    def __init__(self, to: str) -> None:
        host, port = to.split(":")
        self.ice = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.upstream = socket.create_connection((host, int(port)))
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        self.client, _ = self.listener.accept()
        for source, target in ((self.client, self.upstream), (self.upstream, self.client)):
            threading.Thread(target=self.copy, args=(source, target), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.ice.is_set():
                    target.sendall(data)

    def close(self) -> None:
        for one in (self.listener, self.client, self.upstream):
            one.close()


def test_keepalive_notices_a_server_that_is_gone_without_a_word() -> None:
    release = threading.Event()

    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        release.wait(30)
        return pb.PredictResponse()

    with scripted(answer) as server, contextlib.closing(Frozen(server.address)) as proxy:
        with Client(proxy.address, keepalive=0.3, retries=Retries(attempts=1)) as client:
            errors_raised: list[BaseException] = []

            def ask() -> None:
                try:
                    client.predict("m", "text")
                except errors.LazyneuronError as error:
                    errors_raised.append(error)

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: server.calls == 1, "the call is under way")
            proxy.ice.set()
            asking.join(20)  # without a timeout of its own it would wait for ever
            assert [type(error) for error in errors_raised] == [errors.ServingError]
        release.set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keepalive": -1}, "keepalive is -1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(errors.ConfigurationError, match=message):
            kind("127.0.0.1:1", **settings)  # type: ignore[arg-type]
