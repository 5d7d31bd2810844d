"""What every REST handler needs, and what it answers errors with."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from lazyneuron.engine.errors import InputError, QueueFullError, ServingError
from lazyneuron.server.calls import Call, refusal
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.rest.bodies import read_body, split
from lazyneuron.server.services.open_inference import OpenInferenceService
from lazyneuron.server.serving import Serving
from lazyneuron.server.status import HTTP_STATUS

__all__ = [
    "Face",
    "Handler",
    "answered",
    "call_of",
    "error_response",
    "guarded",
    "header_deadline",
    "json_response",
    "until_gone",
]

_JSON = "application/json"
_CLIENT_GONE = 499
_UNREAD = (408, 413)  # what is left of the body was not read, so no further request can follow on the connection
_MICROSECONDS = 1e6

_Result = TypeVar("_Result")
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Face:
    """The server as the REST handlers see it.

    Attributes
    ----------
    config, metrics
        The server's.
    find_serving, find_service
        Give the models and the Open Inference Protocol over them; None while they are being loaded.
    """

    config: ServerConfig
    metrics: Metrics
    find_serving: Callable[[], Serving | None]
    find_service: Callable[[], OpenInferenceService | None]

    @property
    def serving(self) -> Serving:
        """The models.

        Raises
        ------
        ServingError
            While they are being loaded.
        """
        return _loaded(self.find_serving())

    @property
    def service(self) -> OpenInferenceService:
        """The protocol's calls that are no inference.

        Raises
        ------
        ServingError
            While models are being loaded.
        """
        return _loaded(self.find_service())

    async def read(self, request: Request, header_length: str | None = None) -> tuple[bytes, memoryview]:
        """Return a body's JSON and its binary data, within the settings' bounds (`bodies.split`).

        Raises
        ------
        BodyError
            If it is not taken.
        """
        config = self.config
        data = await read_body(request, limit=config.max_message_bytes, seconds=config.http.body_seconds)
        return split(data, header_length, config.rest.max_json_bytes)


def call_of(request: Request) -> Call:
    """Return a call for a request, or for an instance in it."""
    call = Call(f"{request.method} {request.url.path[:200]}")
    if not call.client and request.client is not None:  # else it is known from who was let in
        call.client = request.client.host
    return call


def json_response(document: object, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(document), status, media_type=_JSON)


def error_response(call: Call, error: Exception, where: str = "") -> Response:
    """Return what an error is answered with: its words, under the HTTP status of its gRPC one.

    Parameters
    ----------
    where
        Put before the words.
    """
    code, words = refusal(call, error)
    status: int = getattr(error, "http_status", HTTP_STATUS[code])
    response = json_response({"error": f"{where}{words}"}, status)
    if isinstance(error, QueueFullError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if status in _UNREAD:
        response.headers["Connection"] = "close"
    return response


def guarded(handler: Handler) -> Handler:
    """Return a handler whose errors become answers."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001  it is answered
            return error_response(call_of(request), error)

    return handle


async def answered(request: Request, work: Callable[[Call], Awaitable[Response]]) -> Response:
    """Return what `work` gives for the request's call, or what its error is answered with."""
    call = call_of(request)
    try:
        return await work(call)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        return Response(status_code=_CLIENT_GONE)
    except Exception as error:  # noqa: BLE001  it is answered
        return error_response(call, error)


def header_deadline(request: Request) -> float | None:
    """Return the deadline that the header `timeout` (microseconds) sets, on the clock of `time.monotonic`.

    Raises
    ------
    InputError
        If it is no number of microseconds.
    """
    text = request.headers.get("timeout")
    if text is None:
        return None
    try:
        timeout = float(text)
    except ValueError:
        timeout = math.nan
    if not 0 <= timeout < math.inf:
        raise InputError("header timeout", got=repr(text[:40]), expected="microseconds, or 0 for none")
    return time.monotonic() + timeout / _MICROSECONDS if timeout else None


async def until_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what `work` gives; cancel it when the client goes away. The body must have been read.

    Raises
    ------
    asyncio.CancelledError
        If the client went away: nobody hears the answer.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        return await task
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _loaded(there: _Result | None) -> _Result:
    if there is None:
        raise ServingError("the server is loading its models; try again")
    return there
