"""Many requests on one stream: each is a task of its own, a bounded number at a time.

Nothing here knows gRPC or a message: requests come from an iterator, and answers are yielded.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from lazyneuron.engine.errors import ShuttingDownError

__all__ = ["Streams"]

_STOPPING = "the server is stopping and takes no new requests; send them to another"

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Streams:
    """The open streams of a server.

    Parameters
    ----------
    max_in_flight
        The most requests of one stream that are answered at the same time. No further one is read until an answer has
        been taken, so a client that reads slowly holds this many answers in memory and no more.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._readers: set[asyncio.Task[None]] = set()
        self._ending = False

    async def run(
        self,
        requests: AsyncIterator[_Request],
        answer: Callable[[_Request], Coroutine[Any, Any, _Response]],
        *,
        ordered: bool,
    ) -> AsyncGenerator[_Response, None]:
        """Answer the requests of one stream. Closing the generator cancels what is still being answered.

        Parameters
        ----------
        requests
            The client's.
        answer
            Answers one; an error that the stream shall survive is an answer.
        ordered
            Whether answers come in the requests' order; otherwise as they are ready.

        Raises
        ------
        ShuttingDownError
            After the last answer, where the server ended the stream.
        """
        if self._ending:
            raise ShuttingDownError(_STOPPING)
        slots = asyncio.Semaphore(self._max_in_flight)
        ready: asyncio.Queue[asyncio.Task[_Response] | None] = asyncio.Queue()
        running: set[asyncio.Task[_Response]] = set()
        open_answers = 0

        async def read() -> None:
            nonlocal open_answers
            iterator = aiter(requests)
            while True:
                await slots.acquire()  # before reading: what is read is answered, even if the server is told to stop
                try:
                    request = await anext(iterator)
                except StopAsyncIteration:
                    return
                open_answers += 1
                task = asyncio.create_task(answer(request))
                running.add(task)
                task.add_done_callback(running.discard)
                if ordered:
                    ready.put_nowait(task)
                else:
                    task.add_done_callback(ready.put_nowait)

        reader = asyncio.create_task(read())
        reader.add_done_callback(lambda _: ready.put_nowait(None))
        self._readers.add(reader)
        try:
            reading = True
            while reading or open_answers:
                task = await ready.get()
                if task is None:
                    reading = False
                    continue
                yield await task
                open_answers -= 1
                slots.release()
            if reader.cancelled() or self._ending:
                raise ShuttingDownError(_STOPPING)
            await reader  # what ended it, if it was an error
        finally:
            self._readers.discard(reader)
            left: list[asyncio.Task[Any]] = [reader, *running]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def end(self) -> None:
        """Read no more requests, on streams that are open or are to come; what was read is answered."""
        self._ending = True
        for reader in self._readers:
            reader.cancel()
