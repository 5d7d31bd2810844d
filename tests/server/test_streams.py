"""Many requests on one stream, without sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.errors import ShuttingDownError
from lazyneuron.server.streams import Streams


async def these(*requests: int) -> AsyncIterator[int]:
    for request in requests:
        yield request


async def forever(first: int) -> AsyncIterator[int]:
    yield first
    await asyncio.Event().wait()


async def collect(
    streams: Streams, requests: AsyncIterator[int], answer: Callable[[int], Coroutine[Any, Any, int]], *, ordered: bool
) -> list[int]:
    return [one async for one in streams.run(requests, answer, ordered=ordered)]


@given(delays=st.lists(st.integers(0, 5), max_size=30), limit=st.integers(1, 8), ordered=st.booleans())
def test_each_request_is_answered_once_and_no_more_than_the_limit_at_a_time(
    delays: list[int], limit: int, ordered: bool
) -> None:
    running, most = 0, 0

    async def answer(index: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(delays[index]):
            await asyncio.sleep(0)
        running -= 1
        return index

    found = asyncio.run(collect(Streams(limit), these(*range(len(delays))), answer, ordered=ordered))
    assert (found if ordered else sorted(found)) == list(range(len(delays)))
    assert most <= limit


def test_answers_come_as_they_are_ready_where_order_does_not_matter() -> None:
    async def check() -> list[int]:
        second_is_done = asyncio.Event()

        async def answer(index: int) -> int:
            if index == 0:
                await second_is_done.wait()
            else:
                second_is_done.set()
            return index

        return await collect(Streams(4), these(0, 1), answer, ordered=False)

    assert asyncio.run(check()) == [1, 0]


def test_nothing_is_read_ahead_of_a_client_that_takes_no_answers() -> None:
    async def check() -> int:
        read = 0

        async def requests() -> AsyncIterator[int]:
            nonlocal read
            while True:
                read += 1
                yield read

        async def answer(index: int) -> int:
            return index

        stream = Streams(5).run(requests(), answer, ordered=False)
        await anext(stream)
        for _ in range(100):
            await asyncio.sleep(0)
        await stream.aclose()
        return read

    assert asyncio.run(check()) <= 6


def test_closing_cancels_what_is_being_answered() -> None:
    async def check() -> list[int]:
        cancelled: list[int] = []

        async def answer(index: int) -> int:
            try:
                if index:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(index)
                raise
            return index

        stream = Streams(8).run(these(0, 1, 2), answer, ordered=False)
        assert await anext(stream) == 0
        await stream.aclose()
        return sorted(cancelled)

    assert asyncio.run(check()) == [1, 2]


async def until_error(stream: AsyncIterator[int]) -> tuple[list[int], str]:
    """The answers of a stream that breaks, and what it breaks with."""
    found: list[int] = []
    try:
        async for one in stream:
            found.append(one)  # noqa: PERF401  kept when it breaks
    except (ShuttingDownError, OSError) as error:
        return found, f"{type(error).__name__}: {error}"
    raise AssertionError("it ended well")


@pytest.mark.parametrize("ordered", [True, False])
def test_the_end_answers_what_was_read_and_then_says_so(ordered: bool) -> None:
    async def check() -> None:
        streams = Streams(4)

        async def answer(index: int) -> int:
            streams.end()
            await asyncio.sleep(0)
            return index

        words = "ShuttingDownError: the server is stopping and takes no new requests; send them to another"
        assert await until_error(streams.run(forever(7), answer, ordered=ordered)) == ([7], words)
        assert await until_error(streams.run(these(1), answer, ordered=ordered)) == ([], words)

    asyncio.run(check())


def test_a_stream_that_breaks_tells_why_after_its_answers() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("the connection broke")

    async def answer(index: int) -> int:
        return index

    found = asyncio.run(until_error(Streams(4).run(broken(), answer, ordered=True)))
    assert found == ([1], "OSError: the connection broke")
