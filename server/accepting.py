"""How gRPC hands calls to Python: of few methods apart, and of those several ahead.

`grpc.aio` keeps a task for each method that its core knows, which waits for that method's next call. It goes through
all of these tasks with every call of any method, and asks for a method's next call when it has begun with the last. So
with many methods each call costs more, and under load the threads wait for each other to wake up more than they work.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # as grpcio-channelz, which has not each of gRPC's releases

__all__ = ["Registering", "accepting_ahead"]

_APART = {"Predict", "ModelInfer", "Check"}
"""The methods, of our services and of the health service, whose calls are many or must come through."""
_AHEAD = 4
"""Calls of one method that the core is asked for beside the one that is wanted; more gave nothing more."""


class Registering:
    """Stands for a server while services are added to it, and has its core know few of their methods one by one.

    These have a queue of their own each; the other methods share one.

    Parameters
    ----------
    server
        Where the services are added.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add handlers that say themselves which method they are for."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
    ) -> None:
        """Have the core know a service's methods, so far as they are to be kept apart."""
        apart = {method: handler for method, handler in handlers.items() if method in _APART}
        self._server.add_registered_method_handlers(service, apart)


class _Ahead(cygrpc.AioServer):  # type: ignore[misc]
    """`grpc.aio`'s server, which finds the next call there already when it asks for it.

    Were its methods called otherwise, these would not be called, and it would be slower and nothing else.
    """

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401  gRPC's own
        super().__init__(*arguments)
        self._calls: dict[bytes, _Calls] = {}

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        ask = super()._make_request_call_future
        if method is None:
            return cast("asyncio.Future[Any]", ask(None))
        if method not in self._calls:
            self._calls[method] = _Calls(lambda: ask(method))
        return self._calls[method].next()

    async def _start_shutting_down(self) -> None:
        for calls in self._calls.values():
            calls.close()
        await super()._start_shutting_down()


class _Calls:
    """A method's calls: those that have come, and the tasks that wait for more.

    They may come in another order than they were asked for, since `Intake` puts some of the asking off.
    """

    def __init__(self, ask: "Callable[[], asyncio.Task[Any]]") -> None:
        self._ask = ask
        self._closed = False
        self._come: deque[asyncio.Task[Any]] = deque()
        self._asked: set[asyncio.Task[Any]] = set()
        self._wanted: asyncio.Future[Any] | None = None

    def next(self) -> "asyncio.Future[Any]":
        """Return the next call, whenever it comes. Not to be called again before it has."""
        while len(self._asked) + len(self._come) <= _AHEAD:
            task = self._ask()
            self._asked.add(task)
            task.add_done_callback(self._came)
        wanted = self._wanted = asyncio.get_running_loop().create_future()
        self._give()
        return wanted

    def close(self) -> None:
        """Let go of the calls that come: one that nobody begins with any more would hold up the server's end."""
        self._closed = True
        self._come.clear()

    def _came(self, task: "asyncio.Task[Any]") -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # which is no news: it ends with one when the server does
            if not self._closed:
                self._come.append(task)
                self._give()

    def _give(self) -> None:
        if self._come and self._wanted is not None and not self._wanted.done():
            task = self._come.popleft()
            if (error := task.exception()) is not None:
                self._wanted.set_exception(error)
            else:
                self._wanted.set_result(task.result())


@contextmanager
def accepting_ahead() -> Iterator[None]:
    """Let the servers that are made meanwhile ask for several calls ahead."""
    plain, cygrpc.AioServer = cygrpc.AioServer, _Ahead
    try:
        yield
    finally:
        cygrpc.AioServer = plain
