"""What stands between the network and the services: TLS, authentication, log, traces and the files they come from."""

import asyncio
import logging

import grpc

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.server.auth import Authenticator
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.guard import AuthInterceptor
from lazyneuron.server.http_guard import App, HttpGuard, is_loopback
from lazyneuron.server.logs import LogOutput
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.observer import Observer
from lazyneuron.server.reload import Reloader
from lazyneuron.server.tls import ServerTls, warn_if_readable
from lazyneuron.server.tracing import start_tracing

__all__ = ["Edge"]

_log = logging.getLogger(__name__)

# A client that vanished without a word is noticed within a minute, not after hours.
_PROBE = (("grpc.keepalive_time_ms", 40_000), ("grpc.keepalive_timeout_ms", 20_000))


class Edge:
    """The parts that every call passes, made from the settings.

    Parameters
    ----------
    config
        The settings.
    metrics
        Where refusals, reloads and lost lines are counted.
    log
        Whose lost lines are counted.

    Raises
    ------
    ConfigurationError
        If a certificate or a tokens' file cannot be used, or tracing is not installed.

    Attributes
    ----------
    tls
        None: no TLS.
    authenticator, observer, reloader
        The parts.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics, log: LogOutput | None = None) -> None:
        self._config = config
        self._metrics = metrics
        self.tls = ServerTls(config.tls) if config.tls.certificate is not None else None
        self.authenticator = Authenticator(config.auth, certificates=config.tls.client_ca is not None)
        self._tracing = start_tracing(config.tracing)
        self.observer = Observer(metrics, config.log, self._tracing)
        metrics.log_lines(lambda: {"full": log.dropped if log is not None else 0, "rate": self.observer.unlogged})
        self.reloader = Reloader(metrics, config.tls.reload_seconds)
        if self.tls is not None:
            self.reloader.add("certificate", self.tls.files, self.tls.reload)
        if self.authenticator.by_token:
            self.reloader.add("tokens", self.authenticator.files, self.authenticator.reload)
            for file in self.authenticator.files:
                warn_if_readable(file, "auth.tokens_file")

    def warn_if_exposed(self) -> None:
        """Say in the log what others on the network can do."""
        if is_loopback(self._config.host):
            return
        if self.tls is None:
            _log.warning("%s is bound without TLS: whoever is on the way can read and change calls", self._config.host)
        if not self.authenticator.on:
            _log.warning("%s is bound without authentication: whoever reaches it may call", self._config.host)

    def interceptor(self) -> AuthInterceptor:
        """Return gRPC's first interceptor."""
        return AuthInterceptor(
            self.authenticator, self.observer, self._metrics, repository_calls=self._config.repository_calls
        )

    def guard(self, app: App) -> HttpGuard:
        """Return an HTTP application that lets in who may call."""
        return HttpGuard(app, self._config, self.authenticator, self.observer)

    def grpc_options(self) -> list[tuple[str, int]]:
        """Return what bounds gRPC's connections."""
        options = [*_PROBE]
        if self._config.tls.max_connection_seconds is not None:
            age = round(self._config.tls.max_connection_seconds * 1000)
            options += [
                ("grpc.max_connection_age_ms", age),
                ("grpc.max_connection_age_grace_ms", round(self._config.grace_seconds * 1000)),
            ]
        return options

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Bind gRPC's port, with TLS if there is any; return its number.

        Raises
        ------
        ConfigurationError
            If gRPC does not take the certificate.
        RuntimeError
            If the port cannot be bound.
        """
        if self.tls is None:
            return server.add_insecure_port(address)
        port = server.add_secure_port(address, self.tls.grpc_credentials())
        if port == 0:
            raise ConfigurationError(f"tls.certificate {self._config.tls.certificate}: gRPC does not take it")
        return port

    async def close(self) -> None:
        """Send the spans that are left."""
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
