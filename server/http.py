"""The HTTP port: metrics, liveness, readiness and a plain page. The live page is to come here."""

import contextlib
import html
import socket
from collections.abc import Callable

import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from lazyneuron import __version__
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.repository import Repository
from lazyneuron.server.serving import Serving

__all__ = ["HttpServer", "http_app"]

_GRACE = 2  # seconds that a slow reader of /metrics may hold up the end


def http_app(metrics: Metrics, serving: Callable[[], Serving | None]) -> Starlette:
    """Return the application.

    Parameters
    ----------
    metrics
        What `/metrics` shows.
    serving
        Gives the models; None while they are being loaded.
    """

    async def show_metrics(request: Request) -> Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # an Accept header that is none
            encode, content_type = choose_encoder("")
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    async def live(request: Request) -> Response:  # noqa: ARG001  Starlette's signature
        return PlainTextResponse("live\n")

    async def readiness(request: Request) -> Response:  # noqa: ARG001
        now = serving()
        if now is None or not now.ready:
            return PlainTextResponse("loading\n" if now is None else "stopping\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def page(request: Request) -> Response:  # noqa: ARG001
        now = serving()
        return HTMLResponse(_page(now.repository if now is not None else Repository()))

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", live),
            Route("/readyz", readiness),
            Route("/", page),
        ]
    )


class HttpServer(uvicorn.Server):
    """uvicorn inside our own event loop, on a socket that is already bound."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=_GRACE
            )
        )

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave the signals to the application, which stops gRPC first."""
        return contextlib.nullcontext()

    async def run_on(self, bound: socket.socket) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[bound])


def _page(repository: Repository) -> str:
    rows = [
        f"<tr><td>{html.escape(m.name)}</td><td>{m.version}</td><td>{html.escape(m.manifest.task)}</td>"
        f"<td>{sum(b.density.mean for b in m.manifest.blocks) / len(m.manifest.blocks):.2%}</td></tr>"
        for m in repository.models.values()
    ]
    broken = [
        f"<tr><td>{html.escape(name)}</td><td colspan=3>not served: {html.escape(reason)}</td></tr>"
        for name, reason in repository.broken.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>lazyneuron</title>'
        f"<h1>lazyneuron {__version__}</h1>"
        "<table><thead><tr><th>Model<th>Version<th>Task<th>Exported density</tr></thead>"
        f"<tbody>{''.join(rows + broken)}</tbody></table>"
        '<p><a href="metrics">Metrics</a></p></html>'
    )
