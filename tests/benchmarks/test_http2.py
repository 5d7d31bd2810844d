"""The load's own HTTP/2, against a real gRPC server: every status, any size, windows, deadlines."""

import importlib
import select
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serve"


@pytest.fixture
def http2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("http2")
    sys.modules.pop("http2")


seen: list[tuple[bytes, dict[str, str]]] = []
held = threading.Event()


def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
    seen.append((request, dict(context.invocation_metadata())))
    if request.startswith(b"code "):
        number = int(request[5:])
        code = next(code for code in grpc.StatusCode if code.value[0] == number)
        context.set_trailing_metadata((("x-long", "y" * 5000),))
        context.abort(code, f"number {number}")
    if request == b"wait":
        held.wait(60)
    return request


@pytest.fixture
def address() -> Iterator[str]:
    seen.clear()
    held.clear()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    handlers = {"C": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    held.set()
    server.stop(0).wait()


def drive(connection: Any, done: Any) -> None:
    ends = time.monotonic() + 60
    while not done():
        assert time.monotonic() < ends
        connection.write()
        writing = [connection.socket] if connection.wants_to_write else []
        if select.select([connection.socket], writing, [], 0.1)[0]:
            connection.read()


def test_every_status_and_what_is_sent(http2: Any, address: str) -> None:
    connection = http2.Connection(address, "/a.B/C", [("x-name", "value " * 60)], timeout=30)
    codes: dict[int, int] = {}
    for number in range(1, 17):
        connection.call(b"code %d" % number, lambda code, number=number: codes.update({number: code}))
    connection.call(b"fine", lambda code: codes.update({0: code}))
    drive(connection, lambda: len(codes) == 17)
    connection.close()
    assert codes == {number: number for number in range(17)}
    assert len(seen) == 17
    assert all(metadata["x-name"] == "value " * 60 for _, metadata in seen)


def test_messages_of_any_size_through_the_server_s_windows(http2: Any, address: str) -> None:
    connection, codes = http2.Connection(address, "/a.B/C"), []
    messages = [bytes([number]) * size for number, size in enumerate((0, 1, 16_379, 16_384, 70_000, 3_000_000, 5))]
    for message in messages * 2:
        connection.call(message, codes.append)
    drive(connection, lambda: len(codes) == 2 * len(messages))
    connection.close()
    assert set(codes) == {0}
    assert sorted(request for request, _ in seen) == sorted(messages * 2)


def test_a_call_that_is_given_up_ends_and_no_other_does(http2: Any, address: str) -> None:
    connection, codes = http2.Connection(address, "/a.B/C"), []
    given_up = connection.call(b"wait", lambda code: codes.append(("wait", code)))
    drive(connection, lambda: bool(seen))
    assert connection.cancel(given_up)
    assert not connection.cancel(given_up)
    connection.call(b"other", lambda code: codes.append(("other", code)))
    drive(connection, lambda: bool(codes))
    held.set()
    connection.close()
    assert codes == [("other", 0)]


def test_a_server_that_leaves_is_told(http2: Any, address: str) -> None:
    connection = http2.Connection(address.replace("127.0.0.1", "localhost"), "/a.B/D")
    codes: list[int] = []
    connection.call(b"", codes.append)
    drive(connection, lambda: bool(codes))
    assert codes == [grpc.StatusCode.UNIMPLEMENTED.value[0]]
    connection.socket.shutdown(2)
    with pytest.raises(http2.ProtocolError, match="closed the connection"):
        connection.read()
    connection.close()
