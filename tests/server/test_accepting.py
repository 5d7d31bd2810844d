"""Calls are accepted ahead, all of them are answered, and none holds up the end of the server."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lazyneuron.server.accepting import Registering, accepting_ahead

Answer = Callable[[bytes, Any], Awaitable[bytes]]


async def started(answer: Answer) -> tuple[grpc.aio.Server, str]:
    with accepting_ahead():
        server = grpc.aio.server()
    few = Registering(server)
    methods = dict.fromkeys(["Predict", "Other"], grpc.unary_unary_rpc_method_handler(answer))
    few.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", methods),))
    few.add_registered_method_handlers("a.B", methods)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), cast("grpc.aio.Server", few))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def echo(request: bytes, context: object) -> bytes:
    return request


def test_every_call_is_answered_of_methods_that_are_known_apart_and_of_others() -> None:
    async def run() -> None:
        server, address = await started(echo)
        known = [method.decode() for method in server._server._calls]  # type: ignore[attr-defined]
        assert known == ["/a.B/Predict", "/grpc.health.v1.Health/Check"]
        async with grpc.aio.insecure_channel(address) as channel:
            calls = [
                channel.unary_unary(f"/a.B/{method}")(bytes([number]), timeout=60)
                for number in range(100)
                for method in ("Predict", "Other")
            ]
            assert await asyncio.gather(*calls) == [bytes([number // 2]) for number in range(200)]
            check = health_pb2_grpc.HealthStub(channel).Check
            assert (await check(health_pb2.HealthCheckRequest(), timeout=60)).status == 1
        await server.stop(0)

    asyncio.run(run())


def test_calls_that_nobody_begins_with_do_not_hold_up_the_end() -> None:
    async def run() -> float:
        server, address = await started(echo)
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary("/a.B/Predict")
            await asyncio.to_thread(call, b"", 60)
            waiting = [call.future(b"", timeout=60) for _ in range(3)]
            time.sleep(0.3)  # so they have reached the core, and the loop cannot begin with them
            began = time.monotonic()
            await server.stop(30)
            seconds = time.monotonic() - began
            codes = [await asyncio.to_thread(one.code) for one in waiting]
            assert all(code in {grpc.StatusCode.OK, *_ENDED} for code in codes)
        return seconds

    assert asyncio.run(run()) < 10


_ENDED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_other_servers_are_the_library_s_own() -> None:
    async def run() -> bool:
        with accepting_ahead():
            ahead = grpc.aio.server()
        plain = grpc.aio.server()
        return type(ahead._server) is not type(plain._server)  # type: ignore[attr-defined]

    assert asyncio.run(run())
