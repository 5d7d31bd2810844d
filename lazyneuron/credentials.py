"""How a client shows who it is, and learns whom it talks to: TLS, client certificates and tokens."""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from lazyneuron.engine.errors import ConfigurationError

__all__ = ["Credentials"]

_AUTHORIZATION = "authorization"


@dataclass(frozen=True)
class Credentials:
    """What a client's channel is opened with.

    Attributes
    ----------
    tls
        Whether to use TLS; implied by any of the files.
    ca
        The authorities (PEM) that the server's certificate must come from; None: those that gRPC brings.
    certificate, key
        The client's own certificate and private key (PEM), for a server with `tls.client_ca`.
    token
        What the server's `auth.tokens_file` knows; sent with each call.
    clear_token
        Whether the token may go to another machine without TLS, as where a proxy beside the client adds that.

    Raises
    ------
    ConfigurationError
        If a file cannot be read, a certificate has no key, or a token is none.
    """

    tls: bool = False
    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    token: str | None = field(default=None, repr=False)
    clear_token: bool = False
    _files: tuple[bytes | None, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("of certificate and key one is given; expected both or neither")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.split()):
            raise ConfigurationError("the token is empty or has characters that no header can carry; expected ASCII")
        files = (_read("ca", self.ca), _read("key", self.key), _read("certificate", self.certificate))
        object.__setattr__(self, "_files", files)

    @property
    def secure(self) -> bool:
        """Whether TLS is used."""
        return self.tls or any(content is not None for content in self._files)

    def channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """Open a channel for threads.

        Parameters
        ----------
        address
            `HOST:PORT`; with TLS, the server's certificate must be for this host.
        options
            gRPC's.

        Raises
        ------
        ConfigurationError
            If a token would go to another machine in clear.
        """
        if self.secure:
            return grpc.secure_channel(address, self._channel_credentials(), options=list(options))
        channel = grpc.insecure_channel(address, options=list(options))
        if self.token is None:
            return channel
        self._check_clear(address)
        return grpc.intercept_channel(channel, _AddToken(self._metadata()))

    def async_channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """Open a channel for asyncio, in the running event loop; as `channel`."""
        if self.secure:
            return grpc.aio.secure_channel(address, self._channel_credentials(), options=list(options))
        if self.token is None:
            return grpc.aio.insecure_channel(address, options=list(options))
        self._check_clear(address)
        adding = [kind(self._metadata()) for kind in _ASYNC]
        return grpc.aio.insecure_channel(address, options=list(options), interceptors=adding)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what an HTTPS connection is made with; None where TLS is not asked for.

        Raises
        ------
        ConfigurationError
            If a certificate or the key cannot be used.
        """
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")  # or it would ask on the terminal
        except (ssl.SSLError, OSError) as error:
            files = ", ".join(str(file) for file in (self.ca, self.certificate, self.key) if file is not None)
            raise ConfigurationError(f"{files}: TLS does not take it ({error.strerror or error})") from None
        return context

    def headers(self, address: str, *, secure: bool) -> dict[str, str]:
        """Return what an HTTP request to `HOST:PORT` carries; `secure`: whether it goes by TLS.

        Raises
        ------
        ConfigurationError
            If a token would go to another machine in clear.
        """
        if self.token is None:
            return {}
        if not secure:
            self._check_clear(address)
        name, value = self._metadata()
        return {name.title(): value}

    def _metadata(self) -> tuple[str, str]:
        return _AUTHORIZATION, f"Bearer {(self.token or '').strip()}"

    def _channel_credentials(self) -> grpc.ChannelCredentials:
        credentials = grpc.ssl_channel_credentials(*self._files)
        if self.token is None:
            return credentials
        of_call = grpc.access_token_call_credentials(self.token.strip())
        return grpc.composite_channel_credentials(credentials, of_call)

    def _check_clear(self, address: str) -> None:
        if not self.clear_token and not _is_local(address):
            raise ConfigurationError(
                f"{address}: the token would be sent in clear; expected TLS (ca or tls) for another machine"
            )


class _AddToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to every call of a channel without TLS."""

    def __init__(self, item: tuple[str, str]) -> None:
        self._item = item

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        """Add it."""
        return continuation(_with(client_call_details, self._item), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        """Add it."""
        return continuation(_with(client_call_details, self._item), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401
        """Add it."""
        return continuation(_with(client_call_details, self._item), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401
        """Add it."""
        return continuation(_with(client_call_details, self._item), request_iterator)


class _Details(grpc.ClientCallDetails):
    """A call's details with further metadata; gRPC reads all of these."""

    def __init__(self, details: Any, metadata: tuple[tuple[str, str], ...]) -> None:  # noqa: ANN401
        self.method, self.timeout, self.metadata = details.method, details.timeout, metadata
        self.credentials, self.wait_for_ready = details.credentials, details.wait_for_ready
        self.compression = getattr(details, "compression", None)


def _with(details: Any, item: tuple[str, str]) -> _Details:  # noqa: ANN401
    return _Details(details, (*(details.metadata or ()), item))


def _async_with(details: Any, item: tuple[str, str]) -> grpc.aio.ClientCallDetails:  # noqa: ANN401
    metadata = grpc.aio.Metadata(*(details.metadata or ()), item)
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _AsyncUnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, item: tuple[str, str]) -> None:
        self._item = item

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        return await continuation(_async_with(client_call_details, self._item), request)


class _AsyncUnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, item: tuple[str, str]) -> None:
        self._item = item

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        return await continuation(_async_with(client_call_details, self._item), request)


class _AsyncStreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, item: tuple[str, str]) -> None:
        self._item = item

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401
        return await continuation(_async_with(client_call_details, self._item), request_iterator)


class _AsyncStreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, item: tuple[str, str]) -> None:
        self._item = item

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401
        return await continuation(_async_with(client_call_details, self._item), request_iterator)


_ASYNC = (_AsyncUnaryUnary, _AsyncUnaryStream, _AsyncStreamUnary, _AsyncStreamStream)


def _read(what: str, file: Path | str | None) -> bytes | None:
    if file is None:
        return None
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{what}: {file} cannot be read ({error.strerror}); expected a PEM file") from None
    if b"-----BEGIN " not in content:
        raise ConfigurationError(f"{what}: {file} is not PEM; expected a file with -----BEGIN … in it")
    return content


def _is_local(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition("///")[2].rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
