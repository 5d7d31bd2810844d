"""Around the HTTP application: who may call, for which host, how much, and what every answer says."""

import ipaddress
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from lazyneuron.engine.errors import LazyneuronError, PermissionDeniedError, UnauthenticatedError
from lazyneuron.server.auth import Authenticator, Subject, current_subject
from lazyneuron.server.calls import Call, call_or_none, enter
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.http_protocol import CERTIFICATE
from lazyneuron.server.observer import Observer
from lazyneuron.server.page.routes import OPEN_PATHS, QUIET_PATHS, sign_in
from lazyneuron.server.status import REQUEST_ID, message

__all__ = ["HttpGuard", "is_loopback"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", *OPEN_PATHS}
# Whatever follows, line feeds too: a router's `$` takes one at the end for nothing.
_ADMIN = re.compile(
    r"/v2/(repository|systemsharedmemory|cudasharedmemory|trace|logging)\b.*|/v2/models/.*/trace\b.*", re.DOTALL
)
_REPOSITORY = re.compile(r"/v2/repository\b.*", re.DOTALL)
_QUIET = {"/healthz", "/readyz", "/metrics", *QUIET_PATHS}  # asked for every few seconds; no line, no span

# The page is ours, without inline code; nothing else may be run, framed or sent anywhere from it.
_HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]", "::1"}
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class _RefusedError(Exception):
    def __init__(self, status: int, text: str, error: LazyneuronError | None = None) -> None:
        super().__init__(text)
        self.status, self.error = status, error


class HttpGuard:
    """An ASGI application around another.

    Parameters
    ----------
    app
        What is guarded.
    config
        The settings.
    authenticator
        Tells who calls.
    observer
        Begins and ends calls.
    """

    def __init__(self, app: App, config: ServerConfig, authenticator: Authenticator, observer: Observer) -> None:
        self._app = app
        self._config = config
        self._authenticator = authenticator
        self._observer = observer
        self._hosts = {name.lower() for name in config.http.allowed_hosts}
        if not self._hosts and is_loopback(config.host):
            self._hosts = {*_LOOPBACK_NAMES, config.host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        current_subject.set(None)
        answer = _Answer(send, self._config.max_message_bytes)
        begun = time.monotonic()
        client = (scope.get("client") or ("", 0))[0]
        method = f"HTTP {scope['method']:.16}"
        try:
            self._admit(scope, headers)
        except _RefusedError as refused:
            call = self._observer.begin(method, headers, client)
            answer.request_id = call.id
            await answer.refuse(refused.status, str(refused), self._page_for(scope, headers, refused.status))
            if refused.error is not None:
                self._observer.refused(call, _CODES[refused.status], refused.error)
            else:
                call.error = str(refused)
                self._observer.end(call, _CODES[refused.status])
            return
        if scope["path"] in _QUIET:
            await self._app(scope, receive, answer.send)
            return
        call = self._observer.begin(method, headers, client)
        call.started = begun
        answer.request_id = call.id
        enter(call)
        try:
            await self._app(scope, answer.bounded(receive), answer.send)
        except ClientDisconnect:
            if answer.too_large:
                await answer.refuse(413, answer.too_large)
            else:
                answer.status = answer.status or 499
        finally:
            self._end(call, answer)

    def _admit(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse what may not be, before anything of its body is read."""
        path: str = scope["path"]
        host = headers.get("host", "").lower()
        if self._hosts and _name(host) not in self._hosts:
            raise _RefusedError(403, f"the host {host[:80]!r} is not served; expected one of http.allowed_hosts")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
            raise _RefusedError(403, f"the page {origin[:80]!r} may not call this server; expected its own pages alone")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in {"GET", "HEAD"}:
            raise _RefusedError(403, "another site's page may not call this server; expected its own pages alone")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._config.max_message_bytes:
            raise _RefusedError(413, _too_large(self._config.max_message_bytes))
        if _REPOSITORY.fullmatch(path) and not self._config.repository_calls:
            raise _RefusedError(501, "repository calls are turned off (repository_calls = false)")
        if path in _OPEN or (path == "/metrics" and self._config.auth.open_metrics) or not self._authenticator.on:
            return
        try:
            subject = self._subject(scope, headers)
            current_subject.set(subject)
            if _ADMIN.fullmatch(path):
                self._authenticator.require_admin(subject, f"{scope['method']} {path}"[:80])
        except UnauthenticatedError as error:
            raise _RefusedError(401, message(error), error) from None
        except PermissionDeniedError as error:
            raise _RefusedError(403, message(error), error) from None

    def _subject(self, scope: Scope, headers: Mapping[str, str]) -> Subject:
        if self._authenticator.by_token:
            return self._authenticator.by_credentials(headers)
        return self._authenticator.by_certificate(scope.get("state", {}).get(CERTIFICATE))

    def _page_for(self, scope: Scope, headers: Mapping[str, str], status: int) -> bytes | None:
        """Return the page that asks for a token, for a browser that wants the live page and has shown none."""
        asked = status == 401 and scope["path"] == "/" and "text/html" in headers.get("accept", "")
        return sign_in() if asked and self._authenticator.by_token and self._config.page.enabled else None

    def _end(self, call: Call, answer: "_Answer") -> None:
        """Tell of the inference, if the application made a call of it, or else of the request."""
        inner = call_or_none()
        if inner is not None and inner is not call:
            call.method, call.model, call.error = inner.method, inner.model, call.error or inner.error
            call.batch_requests, call.queue_seconds = inner.batch_requests, inner.queue_seconds
            call.inference_seconds = inner.inference_seconds
        status = answer.status or 500
        other = "OK" if status < 400 else "INVALID_ARGUMENT" if status < 500 else "INTERNAL"
        self._observer.end(call, _CODES.get(status, other))


class _Answer:
    """What goes back for one request: the application's, or a refusal instead."""

    def __init__(self, send: Send, max_bytes: int) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self.status = 0
        self.request_id = ""
        self.too_large = ""

    async def send(self, event: Message) -> None:
        """Send what the application says, with our headers; once its request was found too large, say that instead."""
        if self.too_large:
            if not self.status:
                await self.refuse(413, self.too_large)
            return
        if event["type"] == "http.response.start":
            self.status = event["status"]
            event["headers"] = self._with_ours(event.get("headers", []))
        await self._send(event)

    async def refuse(self, status: int, text: str, page: bytes | None = None) -> None:
        """Answer with an error, as the Open Inference Protocol writes one, or a page; let the connection end."""
        if self.status:
            return
        self.status = status
        body = json.dumps({"error": text}).encode() if page is None else page
        headers = [
            (b"content-type", b"application/json" if page is None else b"text/html; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="lazyneuron"'))
        await self._send({"type": "http.response.start", "status": status, "headers": self._with_ours(headers)})
        await self._send({"type": "http.response.body", "body": body})

    def bounded(self, receive: Receive) -> Receive:
        """Return `receive`, which ends when a body that did not say its length becomes too large."""
        received = 0

        async def bounded() -> Message:
            nonlocal received
            event = await receive()
            received += len(event.get("body", b""))
            if received > self._max_bytes:
                self.too_large = _too_large(self._max_bytes)
                return {"type": "http.disconnect"}
            return event

        return bounded

    def _with_ours(self, headers: Any) -> list[tuple[bytes, bytes]]:  # noqa: ANN401  ASGI's iterable of pairs
        there = {key.lower() for key, _ in headers}
        ours = [(key, value) for key, value in _HEADERS.items() if key not in there]
        if self.request_id:
            ours.append((REQUEST_ID.encode(), self.request_id.encode()))
        return [*headers, *ours]


def is_loopback(host: str) -> bool:
    """Tell whether an address or a name is the loopback's; of another name that is not known."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return a Host header without its port."""
    return host.rpartition(":")[0] if re.search(r"[^:\[]:\d+$|\]:\d+$", host) else host


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes (the server's max_message_bytes); send it in parts"
