"""The page's paths: itself, its two files, the stream that keeps it up to date, and the box to try a model."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cache, partial
from importlib.resources import files

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from lazyneuron import __version__
from lazyneuron.server.auth import current_subject
from lazyneuron.server.calls import Call, answering
from lazyneuron.server.http_protocol import ABORT
from lazyneuron.server.page.live import Live, TooManyWatchersError
from lazyneuron.server.page.trial import read_trial, tell
from lazyneuron.server.page.words import visible
from lazyneuron.server.rest.bodies import in_thread_if_large
from lazyneuron.server.rest.context import Face, Handler, answered, header_deadline, until_gone
from lazyneuron.server.services.infer import version_of
from lazyneuron.server.services.predict import run

__all__ = ["OPEN_PATHS", "QUIET_PATHS", "page_routes", "sign_in"]

_FILES = {"/page/page.css": "text/css", "/page/page.js": "text/javascript"}
_EVENTS = "/page/events"
OPEN_PATHS = frozenset(_FILES)
"""What needs no token: it is the same for every server of this release."""
QUIET_PATHS = frozenset({*_FILES, _EVENTS})
"""What makes no line in the log and no span."""
_RETRY_SECONDS = 10


def page_routes(face: Face, live: Live) -> list[BaseRoute]:
    """Return the routes.

    Parameters
    ----------
    face
        The server.
    live
        What there is to say.
    """

    async def page(request: Request) -> Response:  # noqa: ARG001  Starlette's signature
        await live.refresh()
        # Why a model is not served may name files; a token of a client's is for calling models.
        subject = current_subject.get()
        reasons = subject is None or subject.role == "admin"
        trying = face.config.rest.enabled
        metrics = subject is None or face.config.auth.open_metrics  # a link carries no token
        values = {"view": live.view, "reasons": reasons, "trying": trying, "metrics": metrics}
        return HTMLResponse(await asyncio.to_thread(_render, "page.html.j2", **values))

    async def events(request: Request) -> Response:
        stream = live.watch(request.scope["state"][ABORT])
        try:
            first = await anext(stream)
        except (TooManyWatchersError, StopAsyncIteration):
            words = "as many pages as may already follow this server (page.max_watchers)\n"
            return PlainTextResponse(words, 503, {"Retry-After": str(_RETRY_SECONDS)})
        # A proxy is not to hold events back until it has many.
        return StreamingResponse(
            _after(first, stream), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def attempt(request: Request) -> Response:
        return await answered(request, partial(_try, face, request))

    routes: list[BaseRoute] = [Route("/", page), Route(_EVENTS, events)]
    routes += [Route(path, _file(path, kind)) for path, kind in _FILES.items()]
    if face.config.rest.enabled:
        routes.append(Route("/page/models/{name}/versions/{version}", attempt, methods=["POST"]))
    return routes


@cache
def sign_in() -> bytes:
    """Return the page for whoever has shown no token that is known: it says nothing of the server but that."""
    return _render("sign_in.html.j2").encode()


async def _try(face: Face, request: Request, call: Call) -> Response:
    """Run one request: admitted, bounded and counted as one of `POST /v1/models/NAME:predict`."""
    with answering(face.metrics, call):
        deadline = header_deadline(request)
        name, version = request.path_params["name"], version_of(request.path_params["version"])
        manifest = face.serving.find(name, version).model.manifest
        json, _ = await face.read(request)
        message = await in_thread_if_large(len(json), lambda: read_trial(manifest, json))
        work = run(face.serving, message, deadline, row_counts=True)
        model, answer, readings = await until_gone(request, work)
        trial = await asyncio.to_thread(lambda: _render("trial.html.j2", trial=tell(model, message, answer, readings)))
        return HTMLResponse(trial)


async def _after(first: bytes, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Give an event, and then a stream's; close it when nobody listens any more."""
    async with aclosing(stream):
        yield first
        async for event in stream:
            yield event


def _file(path: str, kind: str) -> Handler:
    content = (files(__package__) / "static" / path.rpartition("/")[2]).read_bytes()

    async def file(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=kind)

    return file


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def _render(name: str, **values: object) -> str:
    return _templates().get_template(name).render(product_version=__version__, **values)
