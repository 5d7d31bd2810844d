"""The standard health service, whose watchers do not hold up the server's end."""

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2

__all__ = ["Health"]

_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class Health(health.aio.HealthServicer):
    """`grpc.health.v1.Health`. A client that watches (Envoy, gRPC's own health checking) never ends its call itself."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> None:  # noqa: N802
        """Tell a service's status and each change of it, until the server ends."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()  # it fails, or goes on for ever
        finally:
            ended.cancel()
            watch.cancel()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")

    def end(self) -> None:
        """End the calls of those that watch: they have been told that nothing is served any more."""
        self._ended.set()
