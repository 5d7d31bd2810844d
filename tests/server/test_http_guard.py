"""The HTTP port against clients that are slow, large, or another site's page."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazyneuron.server.http_guard import is_loopback
from tests.support.server import ServerProcess, serving, until

BOUNDS = """max_message_bytes = 4096
[http]
header_seconds = 0.3
body_seconds = 0.3
write_seconds = 0.3
idle_seconds = 0.3
max_connections = 20
max_header_bytes = 2048
"""


@pytest.fixture(scope="module")
def strict(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(repository, tmp_path_factory.mktemp("http") / "log", BOUNDS) as server:
        yield server
        assert server.get("/healthz") == "live\n"
        assert "Traceback" not in server.log.read_text()


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.http.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def until_closed(connection: socket.socket) -> bytes:
    """Return what came before the server closed the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def status_of(server: ServerProcess, path: str = "/v2/nothing", body: bytes | None = None, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{server.http}{path}", data=body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "],
    ids=["nothing", "half a line", "half a header"],
)
def test_headers_that_do_not_come_end_the_connection(strict: ServerProcess, sent: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(sent)
        assert until_closed(connection) == b""


def test_a_byte_now_and_then_gains_no_time(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        connection.settimeout(0.05)
        for _ in range(400):  # twenty seconds
            try:
                connection.sendall(b"a")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                return
        pytest.fail("the connection was still open")


def test_a_body_that_does_not_come_ends_the_connection(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        connection.sendall(b"POST /v2/models/x/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        until_closed(connection)  # an answer may come before; then it closes


def test_an_idle_connection_is_closed(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until_closed(connection).endswith(b"live\n")


def test_an_answer_that_nobody_reads_ends_the_connection(strict: ServerProcess) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        host, port = strict.http.split(":")
        connection.connect((host, int(port)))
        # Pipelined until the answers fill every buffer on the way, and the server waits for us.
        connection.setblocking(False)
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50

        def cut() -> bool:
            try:
                connection.send(request)
            except BlockingIOError:
                return False
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        until(cut, "the server cuts the connection", 30)


def test_too_many_connections_are_closed_at_once(strict: ServerProcess) -> None:
    held = [connect(strict) for _ in range(40)]
    try:
        assert sum(until_closed(connection) == b"" for connection in held) == 40
    finally:
        for connection in held:
            connection.close()
    assert strict.get("/healthz") == "live\n"


def test_large_headers_are_refused(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 5000)
        assert until_closed(connection).startswith(b"HTTP/1.1 400 ")


def test_a_large_body_is_refused(strict: ServerProcess) -> None:
    assert status_of(strict, "/v2/nothing", bytes(4097)) == 413
    with connect(strict) as connection:  # before any of it is sent
        connection.sendall(b"POST /v2/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n")
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert (
        json.loads(body)["error"]
        == "the body is larger than 4096 bytes (the server's max_message_bytes); send it in parts"
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8002"}, 200),
        ({"Host": "[::1]:8002"}, 200),
        ({"Host": "evil.example:8002"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:8002", "Host": "localhost:8002"}, 200),
        ({"Origin": "http://localhost:9999", "Host": "localhost:8002"}, 403),
    ],
)
def test_another_site_s_page_cannot_call(server: ServerProcess, headers: dict[str, str], status: int) -> None:
    assert status_of(server, "/healthz", **headers) == status
    assert status_of(server, "/", **headers) == status


def test_another_site_s_form_cannot_post(server: ServerProcess) -> None:
    assert status_of(server, "/v2/repository/index", b"{}", Sec_Fetch_Site="cross-site") == 403


def test_hosts_may_be_named(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log", '[http]\nallowed_hosts = ["models.example"]\n') as server:
        assert status_of(server, "/healthz", Host="models.example") == 200
        assert status_of(server, "/healthz", Host="localhost") == 403


def test_the_page_says_what_may_be_done_with_it(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"http://{server.http}/", timeout=10) as answer:
        headers = answer.headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("example.org", False), ("10.0.0.1", False)],
)  # fmt: skip
def test_what_is_the_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_another_address_without_tls_and_authentication_is_told(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log", 'host = "0.0.0.0"\n') as server:
        server.terminate()
        log = server.log.read_text()
    assert "0.0.0.0 is bound without TLS: whoever is on the way can read and change calls" in log
    assert "0.0.0.0 is bound without authentication: whoever reaches it may call" in log
