"""Unary gRPC calls in plain HTTP/2 (RFC 9113), as cheaply as Python can: a load that leaves the cores to the server.

A gRPC client in Python takes about 150 µs for a call, which is what a whole answer may cost; this takes about 20. It
can do so since it knows what it sends: all headers of a call but its message are the same bytes each time. The server
is told that this end keeps no table of headers (SETTINGS_HEADER_TABLE_SIZE 0, RFC 7541 4.2), so a block of headers can
be read by itself; and of the answer's headers it reads `grpc-status` alone, which gRPC's C core writes in plain text.
The server's windows (flow control) are respected; its own is as good as unlimited.
"""

import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Connection", "ProtocolError"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 4, 5
_LARGEST_WINDOW = 2**31 - 1
_LARGEST_FRAME = 2**24 - 1
_FIRST_WINDOW = 65_535
_CANCEL = 8
_STATUS = re.compile(rb"grpc-status[\x01\x02]([0-9]{1,2})")
_STATUS_OF_RESET = {7: 14, 8: 1, 11: 8, 12: 7}
"""gRPC's status for HTTP/2's error code of a stream that was cut off; of any other, INTERNAL (gRPC over HTTP/2)."""
_INTERNAL = 13


class ProtocolError(Exception):
    """The connection cannot go on."""


@dataclass(slots=True)
class _Stream:
    """A call under way."""

    done: Callable[[int], None]
    unsent: bytes = b""
    window: int = 0
    headers: bytearray = field(default_factory=bytearray)
    status: int | None = None


class Connection:
    """One connection to a gRPC server, without TLS.

    Parameters
    ----------
    address
        `HOST:PORT`.
    method
        `/package.Service/Method` of all calls.
    metadata
        Sent with each.
    timeout
        Each call's, seconds, as the server is told; None: none. The caller ends a call that is over it, by `cancel`.

    Attributes
    ----------
    socket
        To wait for: it does not block.
    """

    def __init__(
        self, address: str, method: str, metadata: Sequence[tuple[str, str]] = (), timeout: float | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._headers = _block(address, method, metadata, timeout)
        self._streams: dict[int, _Stream] = {}
        self._blocked: deque[int] = deque()
        self._next_stream = 1
        self._continued = 0
        self._incoming = bytearray()
        self._received = 0
        self._window, self._initial_window, self._max_frame = _FIRST_WINDOW, _FIRST_WINDOW, 16_384
        settings = {
            _HEADER_TABLE_SIZE: 0,
            _ENABLE_PUSH: 0,
            _INITIAL_WINDOW: _LARGEST_WINDOW,
            _MAX_FRAME: _LARGEST_FRAME,
        }
        content = b"".join(struct.pack(">HI", *pair) for pair in settings.items())
        grant = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self._outgoing = bytearray(_PREFACE + _frame(_SETTINGS, 0, 0, content) + _frame(_WINDOW_UPDATE, 0, 0, grant))

    @property
    def wants_to_write(self) -> bool:
        """Whether there are bytes that the socket has not taken."""
        return bool(self._outgoing)

    def call(self, message: bytes, done: Callable[[int], None]) -> int:
        """Begin a call; `done` gets its gRPC status. Return its number, for `cancel`."""
        number = self._next_stream
        self._next_stream += 2
        self._outgoing += _head(len(self._headers), _HEADERS, _END_HEADERS, number) + self._headers
        body = b"\x00" + len(message).to_bytes(4, "big") + message
        stream = _Stream(done)
        self._streams[number] = stream
        if len(body) <= min(self._window, self._initial_window, self._max_frame) and not self._blocked:
            self._window -= len(body)
            stream.window = self._initial_window - len(body)
            self._outgoing += _head(len(body), _DATA, _END_STREAM, number) + body
        else:
            stream.window, stream.unsent = self._initial_window, body
            self._blocked.append(number)
            self._unblock()
        return number

    def cancel(self, number: int) -> bool:
        """Give a call up; its `done` is not called any more. Return whether it was under way."""
        if self._streams.pop(number, None) is None:
            return False
        self._outgoing += _frame(_RST_STREAM, 0, number, struct.pack(">I", _CANCEL))
        return True

    def write(self) -> None:
        """Send what the socket takes."""
        while self._outgoing:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return
            del self._outgoing[:sent]

    def read(self) -> None:
        """Take what has come.

        Raises
        ------
        ProtocolError
            If the server has closed the connection, or sent what cannot be read.
        """
        try:
            got = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        if not got:
            raise ProtocolError("the server closed the connection")
        self._incoming += got
        view, at = memoryview(bytes(self._incoming)), 0
        while len(view) - at >= 9:
            size = int.from_bytes(view[at : at + 3], "big")
            if len(view) - at < 9 + size:
                break
            kind, flags, number = view[at + 3], view[at + 4], int.from_bytes(view[at + 5 : at + 9], "big") & 0x7FFFFFFF
            self._take(kind, flags, number, view[at + 9 : at + 9 + size])
            at += 9 + size
        del self._incoming[:at]

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def _take(self, kind: int, flags: int, number: int, content: memoryview) -> None:
        if kind == _DATA:
            self._take_data(flags, number, len(content))
        elif kind in (_HEADERS, _CONTINUATION):
            self._take_headers(kind, flags, number, content)
        elif kind == _RST_STREAM:
            if (stream := self._streams.pop(number, None)) is not None:
                code = int.from_bytes(content, "big")
                stream.done(_STATUS_OF_RESET.get(code, _INTERNAL))
        elif kind == _WINDOW_UPDATE:
            self._take_window(number, int.from_bytes(content, "big") & 0x7FFFFFFF)
        elif kind == _PING and not flags & _ACK:
            self._outgoing += _frame(_PING, _ACK, 0, bytes(content))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(bytes(content))
        elif kind == _GOAWAY:
            raise ProtocolError(f"the server sends this client away: {bytes(content[8:]).decode('utf-8', 'replace')}")
        elif kind == _PUSH:
            raise ProtocolError("the server pushes, which it was told not to")

    def _take_data(self, flags: int, number: int, size: int) -> None:
        self._received += size
        if self._received > _LARGEST_WINDOW // 2:
            self._outgoing += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
            self._received = 0
        if flags & _END_STREAM and (stream := self._streams.pop(number, None)) is not None:
            stream.done(_INTERNAL)  # gRPC ends by headers

    def _take_headers(self, kind: int, flags: int, number: int, content: memoryview) -> None:
        stream = self._streams.get(number)
        if kind == _HEADERS:
            self._continued = flags & _END_STREAM
            start = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
            content = content[start : len(content) - (content[0] if flags & _PADDED else 0)]
        if stream is None:  # given up; nothing of it is kept, since no table of headers is
            return
        stream.headers += content
        if not flags & _END_HEADERS:
            return
        if self._continued:
            found = _STATUS.search(stream.headers)
            if found is None:
                raise ProtocolError(f"no grpc-status in plain text in the trailers {bytes(stream.headers)!r}")
            del self._streams[number]
            if stream.unsent:  # answered before all was sent
                self._outgoing += _frame(_RST_STREAM, 0, number, struct.pack(">I", _CANCEL))
            stream.done(int(found[1]))
        stream.headers.clear()

    def _take_settings(self, content: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", content):
            if name == _INITIAL_WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._initial_window
                self._initial_window = value
            elif name == _MAX_FRAME:
                self._max_frame = value
        self._outgoing += _frame(_SETTINGS, _ACK, 0, b"")
        self._unblock()

    def _take_window(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
        elif (stream := self._streams.get(number)) is not None:
            stream.window += more
        self._unblock()

    def _unblock(self) -> None:
        """Send what the windows let through, in turns: one call's small window stops no other."""
        for _ in range(len(self._blocked)):
            number = self._blocked.popleft()
            stream = self._streams.get(number)
            if stream is None:
                continue
            while stream.unsent and (room := min(self._window, stream.window, self._max_frame)) > 0:
                part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
                self._window -= len(part)
                stream.window -= len(part)
                self._outgoing += _frame(_DATA, 0 if stream.unsent else _END_STREAM, number, part)
            if stream.unsent:
                self._blocked.append(number)


def _head(size: int, kind: int, flags: int, stream: int) -> bytes:
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return _head(len(content), kind, flags, stream) + content


def _block(address: str, method: str, metadata: Sequence[tuple[str, str]], timeout: float | None) -> bytes:
    """Return a call's headers: literals that go into no table (RFC 7541 6.2.2), names of the static one by number."""
    fields = [
        b"\x83\x86",  # :method POST, :scheme http
        b"\x04" + _text(method),  # :path
        b"\x01" + _text(address),  # :authority
        b"\x0f\x10" + _text("application/grpc"),  # content-type
        b"\x00" + _text("te") + _text("trailers"),
        b"\x0f\x2b" + _text("lazyneuron-benchmark"),  # user-agent
    ]
    if timeout is not None:
        fields.append(b"\x00" + _text("grpc-timeout") + _text(f"{max(1, round(timeout * 1000))}m"))
    fields += [b"\x00" + _text(name) + _text(value) for name, value in metadata]
    return b"".join(fields)


def _text(text: str) -> bytes:
    """Return a string in plain bytes, with its length before it (RFC 7541 5.2)."""
    raw = text.encode("ascii")
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, size = len(raw) - 127, bytearray((127,))
    while rest >= 128:
        size.append(rest % 128 + 128)
        rest //= 128
    size.append(rest)
    return bytes(size) + raw
