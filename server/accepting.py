"""How gRPC hands calls to Python: of few methods apart, and of those several ahead.

`grpc.aio` keeps a task for each method that its core knows, which waits for that method's next call. It goes through
all of these tasks with every call of any method, and asks for a method's next call when it has begun with the last. So
with many methods each call costs more, and under load the threads wait for each other to wake up more than they work.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # as grpcio-channelz, which has not each of gRPC's releases

__all__ = ["Registering", "accepting_ahead"]

_APART = {"Predict", "ModelInfer", "Check"}
"""The methods, of our services and of the health service, whose calls are many or must come through."""
_AHEAD = 4
"""Calls of one method that the core is asked for at a time; more gave nothing more."""


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
        self._asked: dict[bytes, deque[Any]] = {}

    def _make_request_call_future(self, method: bytes | None) -> Any:  # noqa: ANN401  a task
        ask = super()._make_request_call_future
        if method is None:
            return ask(None)
        asked = self._asked.setdefault(method, deque())
        while len(asked) <= _AHEAD:
            asked.append(ask(method))
            asked[-1].add_done_callback(_heard)
        return asked.popleft()

    async def _start_shutting_down(self) -> None:
        self._asked.clear()  # a call that nobody begins with any more would hold up the end
        await super()._start_shutting_down()


@contextmanager
def accepting_ahead() -> Iterator[None]:
    """Let the servers that are made meanwhile ask for several calls ahead."""
    plain, cygrpc.AioServer = cygrpc.AioServer, _Ahead
    try:
        yield
    finally:
        cygrpc.AioServer = plain


def _heard(task: Any) -> None:  # noqa: ANN401
    """Take a task's error: it ends with one when the server does."""
    if not task.cancelled():
        task.exception()
