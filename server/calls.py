"""Around every call: the message is parsed, the handler's errors become statuses, and the answer is counted.

Without it, gRPC would answer a message that does not parse with UNKNOWN and a Python exception's text.
"""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message

from lazyneuron.engine.errors import InputError, LazyneuronError
from lazyneuron.engine.model import Model
from lazyneuron.server.backlog import Intake
from lazyneuron.server.compression import decompressed
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.rate import PerSecond
from lazyneuron.server.status import REQUEST_ID, message, status_of, trailing_metadata

if TYPE_CHECKING:
    from lazyneuron.server.observer import Observer

__all__ = [
    "Call",
    "CallInterceptor",
    "answering",
    "call_or_none",
    "current_call",
    "enter",
    "fresh_id",
    "host_of",
    "refusal",
]

_log = logging.getLogger(__name__)

_INFERENCE = {"/lazyneuron.v1.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"}
_TRAVEL_SECONDS = 0.05
_SERVICES = ("/lazyneuron.v1.", "/inference.")

_T = TypeVar("_T")
Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Message, Context], Awaitable[Message]]
StreamBehavior = Callable[[AsyncIterator[Message | InputError], Context], AsyncGenerator[Message, None]]


# A process's own prefix and a number: unique without a system call for each request.
_PROCESS = uuid.uuid4().hex[:8]
_numbers = itertools.count(1)
_failures = PerSecond(10)  # tracebacks: what a client can cause, it can cause a thousand times
_current: ContextVar["Call"] = ContextVar("call")
_taken_as: ContextVar[int] = ContextVar("taken_as", default=0)


def _of_outer(name: str, default: Any) -> Any:  # noqa: ANN401
    """Return what a call takes over from the one that it is a part of: a message on a stream, a request over HTTP."""
    return getattr(_current.get(None), name, default)


def _new_id() -> str:
    outer = _current.get(None)
    if outer is not None and outer.method.startswith("HTTP "):  # the same request
        return outer.id
    return fresh_id()


def fresh_id() -> str:
    """Return an id that no other call has."""
    return f"{_PROCESS}{next(_numbers):08x}"


@dataclass
class Call:
    """One call as it goes through the server.

    Attributes
    ----------
    method
        `/package.Service/Method`; of a request over HTTP its verb and path.
    id
        In the log beside anything about this call.
    model
        Set once the model is known; what is counted before that has no model's label.
    client
        Who asks: the authenticated subject, or else the host.
    queue_seconds, inference_seconds, batch_requests
        How its batch went; zeros if it was in none.
    error, refused
        What it was refused with, and the reason among `errors.REFUSALS`; else empty.
    left_queue
        Whether its caller gave it up before any of it ran.
    alone
        Whether none has been taken in since it was, so that none is known to be on its way.
    span, tracing
        OpenTelemetry's span and who made it; None if the call is not traced.
    """

    method: str
    id: str = field(default_factory=_new_id)
    started: float = field(default_factory=time.monotonic)
    model: Model | None = None
    client: str = field(default_factory=lambda: _of_outer("client", ""))
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch_requests: int = 0
    error: str = ""
    refused: str = ""
    left_queue: bool = False
    alone: bool = False
    span: Any = field(default_factory=lambda: _of_outer("span", None))
    tracing: Any = field(default_factory=lambda: _of_outer("tracing", None))


def current_call() -> Call:
    """Return the call that the running handler serves."""
    return _current.get()


def enter(call: Call) -> None:
    """Make a call the one that this task works for."""
    _current.set(call)


def call_or_none() -> Call | None:
    """Return the call that this code works for, if it works for one."""
    return _current.get(None)


def host_of(peer: str) -> str:
    """Return the host of gRPC's `ipv4:HOST:PORT`, `ipv6:%5B…%5D:PORT` or `unix:…`."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    host = rest.rpartition(":")[0]
    return host.removeprefix("%5B").removesuffix("%5D").strip("[]")


@contextmanager
def answering(metrics: Metrics, call: Call) -> Iterator[None]:
    """Make `call` the current one while its request is answered, and count it by how that ends.

    For a request that is not a unary gRPC call of its own: one on a stream, or one over HTTP.
    """
    _current.set(call)
    code = grpc.StatusCode.CANCELLED
    try:
        yield
        code = grpc.StatusCode.OK
    except asyncio.CancelledError:
        raise
    except Exception as error:
        code, _ = refusal(call, error, log=False)
        raise
    finally:
        _count(metrics, call, code, time.monotonic() - call.started)


def refusal(call: Call, error: Exception, *, log: bool = True) -> tuple[grpc.StatusCode, str]:
    """Return the status and the words that an error is answered with.

    An internal fault is told in the log, not to the client.
    """
    code = grpc.StatusCode.INTERNAL
    if isinstance(error, LazyneuronError):
        code, call.refused = status_of(error), error.refusal
    if code is not grpc.StatusCode.INTERNAL:
        call.error = message(cast("LazyneuronError", error))
        if log:
            _log.debug("request %s (%s) refused: %s", call.id, call.method, error)
        return code, call.error
    call.error = f"{type(error).__name__}: {error}"
    if log and _failures.take():  # its line in the access log tells of each
        _log.error("request %s (%s) failed", call.id, call.method, exc_info=error)
    return code, f"internal error; the server's log has it under request {call.id}"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our own services; of health and reflection only how messages are read.

    Parameters
    ----------
    metrics
        Where answers are counted.
    observer
        Begins and ends calls.
    intake
        Is told how calls end.
    max_message_bytes
        That a message may have once it is decompressed.
    """

    def __init__(self, metrics: Metrics, observer: "Observer", intake: Intake, max_message_bytes: int) -> None:
        self._metrics = metrics
        self._observer = observer
        self._intake = intake
        self._max_message_bytes = max_message_bytes
        self._wrapped: dict[str, Any] = {}  # gRPC asks for every call, and methods do not change
        self._taken = 0

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401  gRPC types neither
        """Return the handler, wrapped."""
        self._taken += 1
        _taken_as.set(self._taken)
        method: str = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            wrapped = await continuation(handler_call_details)
            if wrapped is not None:
                wrapped = self._wrapped[method] = self._wrap_any(method, wrapped)
        return wrapped

    def _wrap_any(self, method: str, handler: Any) -> Any:  # noqa: ANN401
        parse, most = handler.request_deserializer, self._max_message_bytes

        def read(raw: bytes) -> Any:  # noqa: ANN401  a message
            return parse(decompressed(raw, most))

        if not method.startswith(_SERVICES):
            return handler._replace(request_deserializer=read)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._wrap_stream(method, handler.stream_stream),
                request_deserializer=_leniently(read),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(method, handler.unary_unary, read),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, method: str, behavior: Behavior, parse: Callable[[bytes], Message]) -> Any:  # noqa: ANN401
        async def handle(raw: bytes, context: Context) -> Message:
            return await self._run(
                method, context, lambda: behavior(_parsed(raw, parse), context), count=method in _INFERENCE
            )

        return handle

    def _wrap_stream(self, method: str, behavior: StreamBehavior) -> Any:  # noqa: ANN401
        """Return a stream's handler: its requests are counted one by one by whoever answers them, not the stream."""

        async def handle(requests: AsyncIterator[Message | InputError], context: Context) -> None:
            async def write() -> None:
                # Written here, not yielded on: so the generator is closed at once when the client goes away.
                async with aclosing(behavior(requests, context)) as responses:
                    async for response in responses:
                        await _write(context, response)

            await self._run(method, context, write, count=False)

        return handle

    async def _run(self, method: str, context: Context, work: Callable[[], Awaitable[_T]], *, count: bool) -> _T:
        """Do a call's work; its errors become statuses, and it is observed and, where `count` says so, counted."""
        call = self._observer.begin(method, dict(context.invocation_metadata() or ()), host_of(context.peer()))
        call.alone = _taken_as.get() == self._taken
        enter(call)
        context.set_trailing_metadata(((REQUEST_ID, call.id),))
        code = grpc.StatusCode.CANCELLED
        try:
            result = await work()
            code = grpc.StatusCode.OK
        except asyncio.CancelledError:  # the client went away or its deadline passed; nobody hears the answer
            code = _why_cancelled(context)
            raise
        except Exception as error:
            code, words = refusal(call, error)
            await _abort(call, context, code, words, error)
            raise
        else:
            return result
        finally:
            if count:
                seconds = time.monotonic() - call.started
                # When the answer is on its way; whoever asks for the metrics after it finds it there.
                asyncio.get_running_loop().call_soon(_count, self._metrics, call, code, seconds)
                self._intake.ended(call.client, code)
            self._observer.end(call, code.name)


async def _write(context: Context, response: Message) -> None:
    """Send an answer on a stream. A client that has gone is no fault: the stream ends as one that was cancelled."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _leniently(parse: Callable[[bytes], Message]) -> Callable[[bytes], Message | InputError]:
    """Return a parser that hands an error on in the place of a message: gRPC would end the stream for it."""

    def parse_or_tell(raw: bytes) -> Message | InputError:
        try:
            return _parsed(raw, parse)
        except InputError as error:
            return error

    return parse_or_tell


def _count(metrics: Metrics, call: Call, code: grpc.StatusCode, seconds: float) -> None:
    model, version = (call.model.name, str(call.model.version)) if call.model is not None else ("", "")
    refused = call.refused
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and call.left_queue:
        refused = "deadline"  # its client's own timer was first
    trace = "" if call.span is None else f"{call.span.get_span_context().trace_id:032x}"
    metrics.answered(model, version, code.name, seconds, refused=refused, trace=trace)


def _parsed(raw: bytes, parse: Callable[[bytes], Message]) -> Message:
    try:
        return parse(raw)
    except DecodeError as error:
        raise InputError("message", got=f"{len(raw)} bytes that do not parse ({error})", expected="protobuf") from None


async def _abort(call: Call, context: Context, code: grpc.StatusCode, words: str, error: Exception) -> None:
    """End the call with a status, by gRPC's own exception."""
    metadata = () if code is grpc.StatusCode.INTERNAL else trailing_metadata(cast("LazyneuronError", error))
    await context.abort(code, words, (*metadata, (REQUEST_ID, call.id)))


def _why_cancelled(context: Context) -> grpc.StatusCode:
    """Tell a deadline that passed from a client that left.

    The client's own timer fires first, by the time that the request travelled, and then it cancels.
    """
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= _TRAVEL_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
