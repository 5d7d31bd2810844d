"""HTTP connections with bounds: uvicorn itself waits for ever for a client's headers, its body and its reading."""

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from lazyneuron.server.config import HttpConfig

__all__ = ["ABORT", "CERTIFICATE", "protocol_for"]

CERTIFICATE = "certificate"
"""In an ASGI scope's `state`: the common name of the client's certificate, which TLS has verified."""

ABORT = "abort"
"""Likewise: cuts the connection, whatever is still to be sent."""

_ANSWER_SECONDS = 1.0
"""What whoever reads a body has to tell the client that it comes too slowly."""


def protocol_for(limits: HttpConfig) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP/1.1 protocol with these bounds."""

    class Bounded(_Bounded):
        bounds = limits

    return Bounded


class _Bounded(H11Protocol):
    bounds: HttpConfig

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,  # noqa: ANN401
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._arriving: asyncio.TimerHandle | None = None  # what is being received has until then
        self._arriving_body = False
        self._unread: asyncio.TimerHandle | None = None  # the client has until then to read on

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; or not, where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            transport.abort()
            return
        self.app_state = {**self.app_state, CERTIFICATE: _common_name(transport), ABORT: transport.abort}
        self._expect(body=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_expecting()
        self._stop_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and see what is still missing."""
        super().data_received(data)
        state = self.conn.their_state
        if state is h11.IDLE:
            self._expect(body=False)
        elif state is h11.SEND_BODY:
            self._expect(body=True)
        else:
            self._stop_expecting()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.bounds.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        self._stop_unread()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one with an answer that was never read would stay open for ever."""
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _expect(self, *, body: bool) -> None:
        """Begin to wait, if this is not what is being waited for already: a byte now and then gains no time."""
        if self._arriving is not None and self._arriving_body == body:
            return
        self._stop_expecting()
        self._arriving_body = body
        seconds = self.bounds.body_seconds + _ANSWER_SECONDS if body else self.bounds.header_seconds
        self._arriving = self.loop.call_later(seconds, self.transport.abort)

    def _stop_expecting(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _common_name(transport: asyncio.Transport) -> str | None:
    certificate = transport.get_extra_info("peercert") or {}
    for names in certificate.get("subject", ()):
        for kind, value in names:
            if kind == "commonName":
                return str(value)
    return None
