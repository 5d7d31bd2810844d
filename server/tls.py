"""TLS on both ports from PEM files, which may change while the server runs.

gRPC asks for its certificate at each handshake, and the HTTP port's context hands every new connection to the newest
one; open connections go on as they are.
"""

import logging
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.server.config import TlsConfig

__all__ = ["ServerTls", "warn_if_readable"]

_log = logging.getLogger(__name__)

_EXPOSED = stat.S_IRWXO | stat.S_IWGRP  # a group that may read is common (ssl-cert)
_TRIES = 5


@dataclass(frozen=True)
class _Loaded:
    """Files that belong together, for each library that wants them."""

    contents: tuple[bytes, ...]
    http: ssl.SSLContext
    grpc: Any  # grpc's type has no name of its own


class ServerTls:
    """The server's side of TLS.

    Parameters
    ----------
    config
        Its `certificate` and `key` are set.

    Raises
    ------
    ConfigurationError
        If a file cannot be read or is not what it should be, or the key is not the certificate's.
    """

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._loaded = _load(config)
        self._given_to_grpc = self._loaded
        assert config.key is not None
        warn_if_readable(config.key, "tls.key")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to watch."""
        return _files(self._config)

    def reload(self) -> bool:
        """Read the files again; new connections use them. Return whether they are others than before.

        Raises
        ------
        ConfigurationError
            As the constructor; what was loaded stays in use.
        """
        loaded = _load(self._config)
        changed = loaded.contents != self._loaded.contents
        if changed:
            self._loaded = loaded
        return changed

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's credentials, which follow `reload`."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.grpc, self._for_handshake, require_client_authentication=self._config.client_ca is not None
        )

    def http_context(self) -> ssl.SSLContext:
        """Return a context for asyncio, which follows `reload`."""
        context = _Newest(ssl.PROTOCOL_TLS_SERVER)
        context.newest = lambda: self._loaded.http
        return context

    def _for_handshake(self) -> Any:  # noqa: ANN401  grpc's type has no name
        """Return the configuration if gRPC does not have it yet; called by its threads, for each connection."""
        loaded = self._loaded
        if loaded is self._given_to_grpc:
            return None
        self._given_to_grpc = loaded
        return loaded.grpc


class _Newest(ssl.SSLContext):
    """Stands for whichever context is the newest when a connection begins."""

    newest: Any

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:  # noqa: ANN401
        """Begin a connection; asyncio calls this for each."""
        begun = self.newest().wrap_bio(*args, **kwargs)
        assert isinstance(begun, ssl.SSLObject)
        return begun


def warn_if_readable(file: Path, setting: str) -> None:
    """Say in the log that everybody on the machine may read a secret file."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & _EXPOSED:
        _log.warning("%s %s is open to other users (mode %o); chmod 600 or 640", setting, file, mode)


def _files(config: TlsConfig) -> tuple[Path, ...]:
    return tuple(file for file in (config.certificate, config.key, config.client_ca) if file is not None)


def _load(config: TlsConfig) -> _Loaded:
    """Read the files until two readings agree: a rotation replaces them one after the other."""
    contents = _read(config)
    for _ in range(_TRIES):
        context = _context(config, contents)
        again = _read(config)
        if again == contents:
            break
        contents = again
    certificate, key, *authorities = contents
    pairs = [(key, certificate)]
    return _Loaded(
        contents, context, grpc.ssl_server_certificate_configuration(pairs, authorities[0] if authorities else None)
    )


def _read(config: TlsConfig) -> tuple[bytes, ...]:
    found = []
    for setting, file in (("certificate", config.certificate), ("key", config.key), ("client_ca", config.client_ca)):
        if file is not None:
            found.append(_pem(file, f"tls.{setting}", b"PRIVATE KEY-----" if setting == "key" else b"CERTIFICATE-----"))
    return tuple(found)


def _pem(file: Path, setting: str, mark: bytes) -> bytes:
    what = "a private key" if mark.startswith(b"PRIVATE") else "a certificate"
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise ConfigurationError(f"{setting}: {file} {reason}; expected {what} in PEM") from None
    if mark not in content:
        raise ConfigurationError(f"{setting}: {file} holds no {what.removeprefix('a ')}; expected one in PEM")
    if b"ENCRYPTED" in content:
        raise ConfigurationError(f"{setting}: {file} is locked with a passphrase; expected a key without one")
    return content


def _context(config: TlsConfig, contents: tuple[bytes, ...]) -> ssl.SSLContext:
    assert config.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.certificate, config.key, password=lambda: "")  # never ask on the terminal
    except (ssl.SSLError, OSError) as error:
        if "KEY_VALUES_MISMATCH" in str(error) or "KEY_TYPE_MISMATCH" in str(error):
            raise ConfigurationError(
                f"tls.key: {config.key} is not the key of tls.certificate {config.certificate}; expected its own"
            ) from None
        raise ConfigurationError(
            f"tls.certificate {config.certificate} with tls.key {config.key} cannot be used ({_reason(error)}); "
            "expected a certificate and its private key in PEM"
        ) from None
    if config.client_ca is not None:
        try:
            context.load_verify_locations(cadata=contents[-1].decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(
                f"tls.client_ca: {config.client_ca} cannot be used ({_reason(error)}); expected certificates in PEM"
            ) from None
        if config.http_client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()
