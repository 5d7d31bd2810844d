"""The process: bind, load, serve, and stop without losing an admitted request."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.protocol import open_inference_pb2, prediction_pb2
from lazyneuron.protocol.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from lazyneuron.protocol.prediction_pb2_grpc import add_PredictionServiceServicer_to_server
from lazyneuron.server.accepting import Registering, accepting_ahead
from lazyneuron.server.backlog import Arrivals, Intake, backlog_options
from lazyneuron.server.calls import CallInterceptor
from lazyneuron.server.compression import CORE_OPTIONS
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.devices import chosen_devices
from lazyneuron.server.edge import Edge
from lazyneuron.server.health import Health
from lazyneuron.server.http import HttpServer, http_app
from lazyneuron.server.logs import LogOutput
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.notify import keep_alive, notify, reloading
from lazyneuron.server.page.live import Live
from lazyneuron.server.services.open_inference import OpenInferenceService
from lazyneuron.server.services.predict import PredictionService
from lazyneuron.server.serving import Serving
from lazyneuron.server.streams import Streams

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
    log
        Whose lost lines are counted.

    Raises
    ------
    ConfigurationError
        If a certificate, a tokens' file or a part that is not installed cannot be used.

    Attributes
    ----------
    grpc_address, http_address
        `HOST:PORT` as bound, once `start` has returned.
    http_url
        The HTTP port's address as a browser takes it.
    """

    def __init__(self, path: Path, config: ServerConfig, log: LogOutput | None = None) -> None:
        self._path = path
        self._config = config
        self._metrics = Metrics()
        self._edge = Edge(config, self._metrics, log)
        self._serving: Serving | None = None
        self._open_inference: OpenInferenceService | None = None
        self._streams = Streams(config.stream.max_in_flight)
        self._live = (
            Live(self._metrics, lambda: self._serving, config.page.max_watchers) if config.page.enabled else None
        )
        self._health = Health()
        self._grpc: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []
        self._setting: set[asyncio.Task[None]] = set()
        self.grpc_address = ""
        self.http_address = ""

    @property
    def http_url(self) -> str:
        """The HTTP port's address as a browser takes it."""
        return f"{'https' if self._edge.tls is not None else 'http'}://{self.http_address}/"

    @property
    def started(self) -> bool:
        """Whether requests are taken, or have been."""
        return self._grpc is not None

    @property
    def loading(self) -> bool:
        """Whether a thread is loading a model, or reads the folder."""
        return self._serving is not None and self._serving.repository.loading

    def reload(self) -> None:
        """Read certificates and tokens again."""
        self._edge.reloader.reload_all()

    async def start(self) -> None:
        """Bind both ports, load the models and take requests.

        Liveness is answered while models load; a port in use is told before they are.

        Raises
        ------
        ConfigurationError
            If a port cannot be bound, or a GPU that was asked for cannot be used.
        ArtifactError
            If no model can be loaded.
        """
        config = self._config
        # gRPC binds for itself, and says less when it fails.
        _bind(config.host, config.grpc_port, "--grpc-port").close()
        listener = _bind(config.host, config.http_port, "--http-port")
        self.http_address = _address(config.host, listener.getsockname()[1])
        await self._health.set("", _NOT_SERVING)
        self._edge.warn_if_exposed()
        app = http_app(config, self._metrics, lambda: self._serving, lambda: self._open_inference, self._live)
        self._http = HttpServer(self._edge.guard(app), config.http, self._edge.tls)
        self._http_task = asyncio.create_task(self._http.run_on(listener))
        self._background = [asyncio.create_task(self._edge.reloader.run()), asyncio.create_task(keep_alive())]
        if self._live is not None:
            self._background.append(asyncio.create_task(self._live.run()))
        try:
            devices = await asyncio.to_thread(chosen_devices, config)
            serving = Serving(self._path, config, self._metrics, devices)
            await serving.start()
            if devices.choice.why:  # here, so that a start that fails says nothing else
                _log.log(logging.WARNING if devices.choice.alarming else logging.INFO, "%s", devices.choice.why)
            self._serving = serving
            await self._start_grpc(serving)
        except BaseException:
            await self._stop_http()
            raise
        await self._set_health(serving)

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
        self._streams.end()  # an idle one would hold up the end
        self._health.end()
        # Calls that reach us before clients know are told so; gRPC itself would only cut them off.
        await asyncio.sleep(min(_LINGER_SECONDS, max(0.0, ends - time.monotonic())))
        # What was computed is still being sent, on both ports.
        await asyncio.gather(
            self._grpc.stop(max(0.0, ends - time.monotonic())), self._stop_http(max(0.0, ends - time.monotonic()))
        )
        await self._edge.close()
        self._serving.close()
        return finished

    async def _start_grpc(self, serving: Serving) -> None:
        config, intake, arrivals = self._config, Intake(), Arrivals()
        intake.install(asyncio.get_running_loop())
        guard = self._edge.interceptor()
        interceptors = [guard, CallInterceptor(self._metrics, self._edge.observer, intake, config.max_message_bytes)]
        options = [
            *self._edge.grpc_options(),
            *backlog_options(config.queue),
            *CORE_OPTIONS,
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", -1),  # an answer is as large as the model makes it
            # A client may ask for a sign of life this often while calls are under way; or gRPC would hang up on it.
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.so_reuseport", 0),  # or a second server would share the port, and take half the requests
        ]
        with accepting_ahead():
            server = grpc.aio.server(interceptors=interceptors, options=options)
        if arrivals.found():
            self._metrics.calls(arrivals.calls, lambda: guard.calls)
        self._open_inference = OpenInferenceService(serving, config, self._metrics, self._streams)
        few = cast("grpc.aio.Server", Registering(server))
        add_PredictionServiceServicer_to_server(PredictionService(serving, self._metrics, self._streams), few)
        add_GRPCInferenceServiceServicer_to_server(self._open_inference, few)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, few)
        if config.reflection:
            names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            port = self._edge.add_port(server, _address(config.host, config.grpc_port))
        except RuntimeError as error:
            raise ConfigurationError(f"--grpc-port {config.grpc_port}: cannot be bound ({error})") from error
        self.grpc_address = _address(config.host, port)
        await server.start()
        self._grpc = server

    async def _set_health(self, serving: Serving) -> None:
        """Answer for the whole, for each service, and for each model by its name, from now on."""
        for name in ("", *_SERVICES):
            await self._health.set(name, _SERVING)
        for name in {entry.name for entry in serving.index()}:
            await self._set_model_health(serving, name)

        def changed(name: str) -> None:
            task = asyncio.get_running_loop().create_task(self._set_model_health(serving, name))
            self._setting.add(task)
            task.add_done_callback(self._setting.discard)

        serving.repository.changed = changed

    async def _set_model_health(self, serving: Serving, name: str) -> None:
        ready = any(entry.name == name and entry.state == "READY" for entry in serving.index())
        await self._health.set(name, _SERVING if ready else _NOT_SERVING)

    async def _stop_http(self, grace: float = 0.0) -> None:
        assert self._http is not None
        assert self._http_task is not None
        if self._live is not None:
            self._live.close()  # or its streams would hold up the end
        await self._http.stop(grace)
        await self._http_task
        for task in self._background:
            task.cancel()


async def serve(
    path: Path,
    config: ServerConfig,
    on_ready: Callable[[App], None],
    *,
    log: LogOutput | None = None,
    reread: Callable[[], ServerConfig] | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT. Return whether every admitted request was answered.

    Parameters
    ----------
    path
        A model repository, or one model.
    config
        The settings.
    on_ready
        Called once requests are taken.
    log
        The process's log, whose level follows `reread`.
    reread
        Gives the settings anew on SIGHUP, which also reads certificates and tokens again.

    Raises
    ------
    ConfigurationError, ArtifactError
        As `App` and `App.start`.
    """
    app = App(path, config, log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_exit, stop, number)
    # Taken from the first moment on: unhandled, it would end the process.
    loop.add_signal_handler(signal.SIGHUP, _reload, app, config, log, reread)
    starting, stopping = asyncio.ensure_future(app.start()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        notify("STOPPING=1", "STATUS=models are no longer loaded")
        _log.info("stopping before the models are loaded")
        _leave(log, 0)
    await starting
    on_ready(app)
    _log.info("ready: gRPC on %s, HTTP on %s", app.grpc_address, app.http_url)
    notify("READY=1", f"STATUS=gRPC on {app.grpc_address}, HTTP on {app.http_url}")
    await stopping
    notify("STOPPING=1", "STATUS=admitted requests finish")
    _log.info("stopping: new requests are refused, admitted ones have %g s to finish", config.grace_seconds)
    finished = await app.stop(config.grace_seconds)
    if not finished:
        _log.error("not every admitted request finished within %g s", config.grace_seconds)
    if not finished or app.loading:
        _leave(log, 0 if finished else 1)
    return finished


def _leave(log: LogOutput | None, status: int) -> NoReturn:
    """End the process at once: a thread that loads or runs a model cannot be interrupted, and would be waited for."""
    if log is not None:
        log.flush()
    logging.shutdown()
    os._exit(status)


def _reload(app: App, config: ServerConfig, log: LogOutput | None, reread: Callable[[], ServerConfig] | None) -> None:
    """Take up what may change while the server runs, and name what may not."""
    if app.started:  # or the manager would take the end of the reload for that of the start
        notify(*reloading())
    _log.info("SIGHUP: reading certificates, tokens and the log's level again")
    app.reload()
    try:
        new = config if reread is None else reread()
    except ConfigurationError as error:
        _log.error("the settings stay as they are: %s", error)
    else:
        if log is not None:
            log.set_level(new.log.level)
        level = new.model_copy(update={"log": new.log.model_copy(update={"level": config.log.level})})
        if level != config:
            _log.warning("settings other than log.level changed; they need a restart")
    if app.started:
        notify("READY=1")


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
    except (OSError, UnicodeError) as error:  # the latter of names that are none
        reason = getattr(error, "strerror", None) or str(error)
        message = f"{_address(host, port)} cannot be bound ({reason}); choose another with {flag} or --host"
        raise ConfigurationError(message) from error
    return bound


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
