"""Around every call: the message is parsed, the handler's errors become statuses, and the answer is counted.

Without it, gRPC would answer a message that does not parse with UNKNOWN and a Python exception's text.
"""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from lazyneuron.engine.errors import InputError, LazyneuronError
from lazyneuron.engine.model import Model
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.status import message, status_of, trailing_metadata

__all__ = ["Call", "CallInterceptor", "current_call"]

_log = logging.getLogger(__name__)

_INFERENCE = {"/lazyneuron.v1.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"}
_TRAVEL_SECONDS = 0.05
_SERVICES = ("/lazyneuron.v1.", "/inference.")

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Message, Context], Awaitable[Message]]


# A process's own prefix and a number: unique without a system call for each request.
_PROCESS = uuid.uuid4().hex[:8]
_numbers = itertools.count(1)


@dataclass
class Call:
    """One call as it goes through the server.

    Attributes
    ----------
    method
        `/package.Service/Method`.
    id
        In the log beside anything about this call.
    model
        Set once the model is known; what is counted before that has no model's label.
    """

    method: str
    id: str = field(default_factory=lambda: f"{_PROCESS}{next(_numbers):08x}")
    started: float = field(default_factory=time.monotonic)
    model: Model | None = None


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Return the call that the running handler serves."""
    return _current.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our own services; health and reflection pass unchanged.

    Parameters
    ----------
    metrics
        Where answers are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401  gRPC types neither
        """Return the handler, wrapped."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or handler.unary_unary is None or not method.startswith(_SERVICES):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(method, handler.unary_unary, handler.request_deserializer),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, method: str, behavior: Behavior, parse: Callable[[bytes], Message]) -> Any:  # noqa: ANN401
        async def handle(raw: bytes, context: Context) -> Message:
            call = Call(method)
            _current.set(call)
            code = grpc.StatusCode.CANCELLED
            try:
                response = await behavior(_parsed(raw, parse), context)
                code = grpc.StatusCode.OK
            except LazyneuronError as error:
                code = status_of(error)
                await _refuse(call, context, code, error)
                raise
            except asyncio.CancelledError:  # the client went away or its deadline passed; nobody hears the answer
                code = _why_cancelled(context)
                raise
            except Exception as error:
                code = grpc.StatusCode.INTERNAL
                await _refuse(call, context, code, error)
                raise
            else:
                return response
            finally:
                self._count(call, code)

        return handle

    def _count(self, call: Call, code: grpc.StatusCode) -> None:
        if call.method in _INFERENCE:
            model, version = (call.model.name, str(call.model.version)) if call.model is not None else ("", "")
            self._metrics.answered(model, version, code.name, time.monotonic() - call.started)


def _parsed(raw: bytes, parse: Callable[[bytes], Message]) -> Message:
    try:
        return parse(raw)
    except DecodeError as error:
        raise InputError("message", got=f"{len(raw)} bytes that do not parse ({error})", expected="protobuf") from None


async def _refuse(call: Call, context: Context, code: grpc.StatusCode, error: Exception) -> None:
    """End the call with a status, by gRPC's own exception. An internal fault is told in the log, not to the client."""
    if code is grpc.StatusCode.INTERNAL:
        _log.error("request %s (%s) failed", call.id, call.method, exc_info=error)
        await context.abort(code, f"internal error; the server's log has it under request {call.id}")
    assert isinstance(error, LazyneuronError)
    _log.debug("request %s (%s) refused: %s", call.id, call.method, error)
    await context.abort(code, message(error), trailing_metadata(error))


def _why_cancelled(context: Context) -> grpc.StatusCode:
    """Tell a deadline that passed from a client that left.

    The client's own timer fires first, by the time that the request travelled, and then it cancels.
    """
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= _TRAVEL_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
