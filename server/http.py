"""The HTTP port: metrics, liveness, readiness, the live page of `page`, and the paths of `rest`."""

import contextlib
import socket
from collections.abc import Callable

import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lazyneuron.server.config import HttpConfig, ServerConfig
from lazyneuron.server.http_protocol import protocol_for
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.page.live import Live
from lazyneuron.server.page.routes import page_routes
from lazyneuron.server.rest.context import Face
from lazyneuron.server.rest.routes import not_found, rest_routes
from lazyneuron.server.services.open_inference import OpenInferenceService
from lazyneuron.server.serving import Serving
from lazyneuron.server.tls import ServerTls

__all__ = ["HttpServer", "http_app"]

_GRACE = 2  # seconds that a slow reader may hold up the end, at the least


def http_app(
    config: ServerConfig,
    metrics: Metrics,
    serving: Callable[[], Serving | None],
    service: Callable[[], OpenInferenceService | None],
    live: Live | None = None,
) -> Starlette:
    """Return the application.

    Parameters
    ----------
    config
        The server's settings.
    metrics
        What `/metrics` shows.
    serving, service
        Give the models and the Open Inference Protocol over them; None while they are being loaded.
    live
        What the page at `/` says; None: there is no page.
    """

    async def show_metrics(request: Request) -> Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # an Accept header that is none
            encode, content_type = choose_encoder("")
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    async def alive(request: Request) -> Response:  # noqa: ARG001  Starlette's signature
        return PlainTextResponse("live\n")

    async def readiness(request: Request) -> Response:  # noqa: ARG001
        now = serving()
        if now is None or not now.ready:
            return PlainTextResponse("loading\n" if now is None else "stopping\n", status_code=503)
        # Names only: why a model is broken may name files, and this is open to all.
        entries = now.index()
        broken = {entry.name for entry in entries} - {entry.name for entry in entries if entry.state == "READY"}
        return PlainTextResponse("".join(["ready\n", *(f"not served: {name}\n" for name in sorted(broken))]))

    face = Face(config, metrics, serving, service)
    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", alive),
            Route("/readyz", readiness),
            *(page_routes(face, live) if live is not None else ()),
            *rest_routes(face),
        ],
        exception_handlers={HTTPException: not_found},
    )


class HttpServer(uvicorn.Server):
    """uvicorn inside our own event loop, on a socket that is already bound.

    Parameters
    ----------
    app
        The application.
    limits
        What it bears of a client.
    tls
        None: no TLS.
    """

    def __init__(self, app: ASGIApp, limits: HttpConfig, tls: ServerTls | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_for(limits),
                h11_max_incomplete_event_size=limits.max_header_bytes,
                timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type] # it goes to call_later
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,  # who calls is who connects; a header may say anything
                ssl_context_factory=None if tls is None else lambda *_: tls.http_context(),
                timeout_graceful_shutdown=_GRACE,
            )
        )

    async def stop(self, grace: float) -> None:
        """Let the answers that are being sent come to their end, within `grace` seconds or a few."""
        self.config.timeout_graceful_shutdown = max(_GRACE, round(grace))
        self.should_exit = True

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave the signals to the application, which stops gRPC first."""
        return contextlib.nullcontext()

    async def run_on(self, bound: socket.socket) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[bound])
