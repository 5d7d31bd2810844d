"""The process: bind, load, serve, and stop without losing an admitted request."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.protocol import open_inference_pb2, prediction_pb2
from lazyneuron.protocol.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from lazyneuron.protocol.prediction_pb2_grpc import add_PredictionServiceServicer_to_server
from lazyneuron.server.calls import CallInterceptor
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.http import HttpServer, http_app
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.repository import load_repository
from lazyneuron.server.services.open_inference import OpenInferenceService
from lazyneuron.server.services.predict import PredictionService
from lazyneuron.server.serving import Serving

__all__ = ["App", "serve"]

_log = logging.getLogger(__name__)

_SERVICES = (
    prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name,
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
_LINGER_SECONDS = 0.2
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class App:
    """One server. `start`, then `stop`.

    Parameters
    ----------
    path
        A model repository, or one model.
    config
        The settings.

    Attributes
    ----------
    grpc_address, http_address
        `HOST:PORT` as bound, once `start` has returned.
    """

    def __init__(self, path: Path, config: ServerConfig) -> None:
        self._path = path
        self._config = config
        self._metrics = Metrics()
        self._serving: Serving | None = None
        self._health = health.aio.HealthServicer()
        self._grpc: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._http_task: asyncio.Task[None] | None = None
        self.grpc_address = ""
        self.http_address = ""

    async def start(self) -> None:
        """Bind both ports, load the models and take requests.

        Liveness is answered while models load; a port in use is told before they are.

        Raises
        ------
        ConfigurationError
            If a port cannot be bound.
        ArtifactError
            If no model can be loaded.
        """
        config = self._config
        # gRPC binds for itself, and says less when it fails.
        _bind(config.host, config.grpc_port, "--grpc-port").close()
        listener = _bind(config.host, config.http_port, "--http-port")
        self.http_address = _address(config.host, listener.getsockname()[1])
        await self._health.set("", _NOT_SERVING)
        self._http = HttpServer(http_app(self._metrics, lambda: self._serving))
        self._http_task = asyncio.create_task(self._http.run_on(listener))
        try:
            repository = await asyncio.to_thread(load_repository, self._path, threads=config.threads)
            self._serving = Serving(repository, config, self._metrics)
            await self._start_grpc(self._serving)
        except BaseException:
            await self._stop_http()
            raise
        await self._set_health(self._serving)

    async def stop(self, grace: float) -> bool:
        """Refuse new requests, let the admitted ones finish, and close. Return whether all finished in time.

        Parameters
        ----------
        grace
            Seconds.
        """
        assert self._grpc is not None
        assert self._serving is not None
        ends = time.monotonic() + grace
        await self._health.enter_graceful_shutdown()
        finished = True
        try:
            await asyncio.wait_for(self._serving.stop(), grace)
        except TimeoutError:
            finished = False
        # Calls that reach us before clients know are told so; gRPC itself would only cut them off.
        await asyncio.sleep(min(_LINGER_SECONDS, max(0.0, ends - time.monotonic())))
        await self._grpc.stop(max(0.0, ends - time.monotonic()))  # what was computed is still being sent
        await self._stop_http()
        self._serving.close()
        return finished

    async def _start_grpc(self, serving: Serving) -> None:
        config = self._config
        server = grpc.aio.server(
            interceptors=[CallInterceptor(self._metrics)],
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", -1),  # an answer is as large as the model makes it
                ("grpc.so_reuseport", 0),  # or a second server would share the port, and take half the requests
            ],
        )
        add_PredictionServiceServicer_to_server(PredictionService(serving), server)
        add_GRPCInferenceServiceServicer_to_server(OpenInferenceService(serving), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            port = server.add_insecure_port(_address(config.host, config.grpc_port))
        except RuntimeError as error:
            raise ConfigurationError(f"--grpc-port {config.grpc_port}: cannot be bound ({error})") from error
        self.grpc_address = _address(config.host, port)
        await server.start()
        self._grpc = server

    async def _set_health(self, serving: Serving) -> None:
        """Answer for the whole, for each service, and for each model by its name."""
        for name in ("", *_SERVICES, *serving.repository.models):
            await self._health.set(name, _SERVING)
        for name in serving.repository.broken:
            await self._health.set(name, _NOT_SERVING)

    async def _stop_http(self) -> None:
        assert self._http is not None
        assert self._http_task is not None
        self._http.should_exit = True
        await self._http_task


async def serve(path: Path, config: ServerConfig, on_ready: Callable[[App], None]) -> bool:
    """Serve until SIGTERM or SIGINT. Return whether every admitted request was answered.

    Parameters
    ----------
    path
        A model repository, or one model.
    config
        The settings.
    on_ready
        Called once requests are taken.

    Raises
    ------
    ConfigurationError, ArtifactError
        As `App.start`.
    """
    app = App(path, config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_exit, stop, number)
    await app.start()
    on_ready(app)
    await stop.wait()
    _log.info("stopping: new requests are refused, admitted ones have %g s to finish", config.grace_seconds)
    finished = await app.stop(config.grace_seconds)
    if not finished:
        _log.error("not every admitted request finished within %g s", config.grace_seconds)
        # A worker thread inside ONNX Runtime cannot be interrupted, and the interpreter would wait for it.
        logging.shutdown()
        os._exit(1)
    return finished


def _stop_or_exit(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():  # asked twice: somebody does not want to wait
        os._exit(128 + number)
    stop.set()


def _bind(host: str, port: int, flag: str) -> socket.socket:
    """Return a listening-ready socket, or say in one line why there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{_address(host, port)} cannot be bound ({reason}); choose another with {flag} or --host"
        raise ConfigurationError(message) from error
    return bound


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
