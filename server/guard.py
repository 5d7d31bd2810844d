"""Who may call which method: before anything of a call is read, its credentials are."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from lazyneuron.engine.errors import LazyneuronError
from lazyneuron.server.auth import Authenticator, Subject, current_subject
from lazyneuron.server.calls import host_of
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.observer import Observer, headers_of
from lazyneuron.server.status import REQUEST_ID, message, status_of, trailing_metadata

__all__ = ["AuthInterceptor", "is_admin_method", "is_open_method", "is_repository_method"]

_INFERENCE = "/inference.GRPCInferenceService/"
_OPEN = ("/grpc.health.v1.Health/",)
_OPEN_METHODS = {f"{_INFERENCE}ServerLive", f"{_INFERENCE}ServerReady"}
_ADMIN = (
    "/grpc.reflection.",
    "/grpc.channelz.",
    f"{_INFERENCE}Repository",
    f"{_INFERENCE}SystemSharedMemory",
    f"{_INFERENCE}CudaSharedMemory",
    f"{_INFERENCE}TraceSetting",
    f"{_INFERENCE}LogSettings",
)
_COUNTED = {"/lazyneuron.v1.PredictionService/Predict", f"{_INFERENCE}ModelInfer"}

Context = grpc.aio.ServicerContext[Any, Any]


def is_open_method(method: str) -> bool:
    """Tell whether a method needs no credentials: an orchestrator has none, and learns only that the process lives."""
    return method.startswith(_OPEN) or method in _OPEN_METHODS


def is_admin_method(method: str) -> bool:
    """Tell whether a method is for admins where authentication is on: it shows or changes what others use."""
    return method.startswith(_ADMIN)


def is_repository_method(method: str) -> bool:
    """Tell whether a method is one of those that `repository_calls` turns off."""
    return method.startswith(f"{_INFERENCE}Repository")


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets in who may call. Stands outside every other interceptor.

    Parameters
    ----------
    authenticator
        Tells who calls.
    observer, metrics
        Where refusals are told.
    repository_calls
        Whether there are any.
    """

    def __init__(
        self, authenticator: Authenticator, observer: Observer, metrics: Metrics, *, repository_calls: bool
    ) -> None:
        self._authenticator = authenticator
        self._observer = observer
        self._metrics = metrics
        self._repository_calls = repository_calls
        self.calls = 0
        """That have been taken in, of any method."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401  gRPC types neither
        """Return the handler, or one that refuses."""
        self.calls += 1
        method: str = handler_call_details.method
        if is_repository_method(method) and not self._repository_calls:
            return _answering(
                grpc.StatusCode.UNIMPLEMENTED, "repository calls are turned off (repository_calls = false)"
            )
        if not self._authenticator.on or is_open_method(method):
            return await continuation(handler_call_details)
        if self._authenticator.by_token:
            headers = headers_of(handler_call_details.invocation_metadata)

            def admit() -> None:
                self._admit(self._authenticator.by_credentials(headers), method)

            try:
                admit()
            except LazyneuronError as error:
                return grpc.stream_stream_rpc_method_handler(self._refusal(method, error))  # which reads nothing
            handler = await continuation(handler_call_details)
            return _checked_each(handler, admit) if handler is not None and handler.request_streaming else handler
        handler = await continuation(handler_call_details)
        return None if handler is None else _checked(handler, lambda context: self._check(method, context))

    def _admit(self, subject: Subject, method: str) -> None:
        current_subject.set(subject)
        if is_admin_method(method):
            self._authenticator.require_admin(subject, method)

    async def _check(self, method: str, context: Context) -> None:
        names = (context.auth_context() or {}).get("x509_common_name", [b""])
        try:
            self._admit(self._authenticator.by_certificate(next(iter(names)).decode("utf-8", "replace")), method)
        except LazyneuronError as error:
            await self._refusal(method, error)(None, context)

    def _refusal(self, method: str, error: LazyneuronError) -> Callable[[Any, Context], Awaitable[None]]:
        async def refuse(requests: Any, context: Context) -> None:  # noqa: ANN401, ARG001  they are not read
            code = status_of(error)
            call = self._observer.begin(method, headers_of(context.invocation_metadata()), host_of(context.peer()))
            self._observer.refused(call, code.name, error)
            if method in _COUNTED:
                self._metrics.answered("", "", code.name, 0.0)
            await context.abort(code, message(error), (*trailing_metadata(error), (REQUEST_ID, call.id)))

        return refuse


def _answering(code: grpc.StatusCode, text: str) -> Any:  # noqa: ANN401  gRPC's handlers have no type
    async def refuse(requests: Any, context: Context) -> None:  # noqa: ANN401, ARG001
        await context.abort(code, text)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _checked_each(handler: Any, check: Callable[[], None]) -> Any:  # noqa: ANN401
    """Return a stream's handler, with a check before each request: its token may have gone since the stream began."""

    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            check()
            yield request

    async def answer(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        answers = handler.stream_stream(checked(requests), context)
        if not hasattr(answers, "__aiter__"):  # a coroutine, which writes by itself
            await answers
            return
        async for one in answers:
            yield one

    return handler._replace(stream_stream=answer)


def _checked(handler: Any, check: Callable[[Context], Awaitable[None]]) -> Any:  # noqa: ANN401
    """Return a handler of the same kind, with a check before it."""
    behavior = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
    kinds = "stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary"

    async def answer_once(request: Any, context: Context) -> Any:  # noqa: ANN401
        await check(context)
        return await behavior(request, context)

    async def answer_many(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        await check(context)
        answers = behavior(request, context)
        if not hasattr(answers, "__aiter__"):  # a coroutine, which writes by itself
            await answers
            return
        async for answer in answers:
            yield answer

    return getattr(grpc, f"{kinds[0]}_{kinds[1]}_rpc_method_handler")(
        answer_many if handler.response_streaming else answer_once,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
