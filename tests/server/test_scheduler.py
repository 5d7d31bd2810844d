"""The scheduler around a real model: what runs together, what is never run, and who suffers from whom."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyneuron.engine.errors import DeadlineExceededError, LazyneuronError, QueueFullError
from lazyneuron.engine.model import Model
from lazyneuron.engine.requests import Request
from lazyneuron.server.config import BatchingConfig, QueueConfig, ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.scheduler import Answer, Scheduler


@pytest.fixture(scope="module")
def text(repository: Path) -> Model:
    return Model.load(repository / "text", threads=1)


@pytest.fixture(scope="module")
def slow(slow_repository: Path) -> Model:
    return Model.load(slow_repository / "slow", threads=1)


def long_request(model: Model, examples: int = 4) -> Request:
    """Some tens of milliseconds of work, or more."""
    return model.request({"x": np.ones((examples, 256, 256), np.float32)})


def small_request(model: Model, length: int = 4) -> Request:
    return model.request({"x": np.ones((1, length, 256), np.float32)})


def words(model: Model, count: int = 3) -> Request:
    return model.request({"input_ids": np.full((1, count), 2)})


def outside_vocabulary(model: Model) -> Request:
    return model.request({"input_ids": np.array([[2, 10**6, 3]])})


def scheduler_for(model: Model, metrics: Metrics | None = None, **batching: Any) -> Scheduler:
    config = ServerConfig(batching=BatchingConfig(**batching), queue=QueueConfig(max_requests=200))
    return Scheduler(model, config, metrics or Metrics())


def run(scheduler: Scheduler, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    finally:
        scheduler.close()


async def gather(*calls: Coroutine[Any, Any, Answer]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def test_a_lone_request_does_not_wait_for_the_window(text: Model) -> None:
    scheduler = scheduler_for(text, window_seconds=5.0)

    async def work() -> list[Answer]:
        return [await scheduler.submit(words(text)) for _ in range(3)]

    begun = time.monotonic()
    answers = run(scheduler, work())
    assert time.monotonic() - begun < 2
    assert all(answer.queue_seconds < 0.5 and answer.batch_requests == 1 for answer in answers)


def test_what_arrives_while_the_engine_is_busy_runs_together(slow: Model) -> None:
    scheduler = scheduler_for(slow)

    async def work() -> list[Any]:
        first = asyncio.create_task(scheduler.submit(long_request(slow)))
        await asyncio.sleep(0.01)
        rest = await gather(*(scheduler.submit(small_request(slow)) for _ in range(10)))
        return [await first, *rest]

    first, *rest = run(scheduler, work())
    assert first.batch_requests == 1
    assert [answer.batch_requests for answer in rest] == [10] * 10
    assert all(answer.queue_seconds > 0 for answer in rest)


def test_unlike_lengths_do_not_share_a_batch(slow: Model) -> None:
    scheduler = scheduler_for(slow, max_padding=0.1)

    async def work() -> list[Any]:
        requests = [small_request(slow, 4), small_request(slow, 100), small_request(slow, 4)]
        return await gather(*(scheduler.submit(request) for request in requests))

    short, long, also_short = run(scheduler, work())
    assert (short.batch_requests, long.batch_requests, also_short.batch_requests) == (2, 1, 2)


def test_batches_keep_to_their_limits(text: Model) -> None:
    scheduler = scheduler_for(text, max_tokens=12, max_requests=3)

    async def work() -> list[Any]:
        return await gather(*(scheduler.submit(words(text, count)) for count in [3] * 20 + [6] * 20 + [30]))

    answers = run(scheduler, work())
    assert max(answer.batch_requests for answer in answers[:20]) == 3
    assert max(answer.batch_requests for answer in answers[20:40]) == 2
    assert answers[40].batch_requests == 1  # larger than a batch: alone


def test_one_bad_request_does_not_fail_its_neighbours(text: Model) -> None:
    metrics = Metrics()
    scheduler = scheduler_for(text, metrics)

    async def work() -> list[Any]:
        requests = [words(text), outside_vocabulary(text), words(text)]
        return await gather(*(scheduler.submit(request) for request in requests))

    first, bad, last = run(scheduler, work())
    assert isinstance(bad, LazyneuronError)
    expected = text.predict({"input_ids": np.full((1, 3), 2)}).outputs["logits"]
    for answer in (first, last):
        assert np.array_equal(answer.prediction.outputs["logits"], expected)
        assert answer.batch_requests == 1


def test_a_request_whose_deadline_passed_is_not_run(slow: Model) -> None:
    metrics = Metrics()
    scheduler = scheduler_for(slow, metrics)

    async def work() -> list[Any]:
        first = asyncio.create_task(scheduler.submit(long_request(slow)))
        await asyncio.sleep(0.005)
        rest = await gather(scheduler.submit(small_request(slow), deadline=time.monotonic() + 0.001))
        return [await first, *rest]

    first, late = run(scheduler, work())
    assert first.batch_requests == 1
    assert isinstance(late, DeadlineExceededError)
    assert "nothing was computed" in str(late)
    labels = {"model": "slow", "version": "1"}
    assert metrics.registry.get_sample_value("lazyneuron_batch_requests_count", labels) == 1


def test_a_cancelled_request_leaves_the_queue(slow: Model) -> None:
    metrics = Metrics()
    scheduler = scheduler_for(slow, metrics)

    async def work() -> float | None:
        first = asyncio.create_task(scheduler.submit(long_request(slow)))
        await asyncio.sleep(0.005)
        waiting = [asyncio.create_task(scheduler.submit(small_request(slow))) for _ in range(5)]
        await asyncio.sleep(0.001)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        depth = metrics.registry.get_sample_value("lazyneuron_queue_requests", {"model": "slow", "version": "1"})
        await first
        return depth

    assert run(scheduler, work()) == 0
    labels = {"model": "slow", "version": "1"}
    assert metrics.registry.get_sample_value("lazyneuron_batch_requests_count", labels) == 1


def test_a_full_queue_refuses_and_then_takes_again(slow: Model) -> None:
    config = ServerConfig(queue=QueueConfig(max_requests=2))
    scheduler = Scheduler(slow, config, Metrics())

    async def work() -> list[Any]:
        first = asyncio.create_task(scheduler.submit(long_request(slow)))
        await asyncio.sleep(0.005)
        crowd = await gather(*(scheduler.submit(small_request(slow)) for _ in range(5)))
        await first
        return [*crowd, await scheduler.submit(small_request(slow))]

    answers = run(scheduler, work())
    refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
    assert len(refused) == 3
    assert all(error.retry_after > 0 for error in refused)
    assert isinstance(answers[-1], Answer)


def test_the_event_loop_is_not_blocked_by_a_batch(slow: Model) -> None:
    scheduler = scheduler_for(slow)

    async def work() -> tuple[float, float]:
        begun = time.monotonic()
        running = asyncio.create_task(scheduler.submit(long_request(slow, examples=16)))
        longest = 0.0
        while not running.done():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        return longest, time.monotonic() - begun

    longest, total = run(scheduler, work())
    assert longest < total / 2


def test_drain_waits_for_what_was_admitted(slow: Model) -> None:
    scheduler = scheduler_for(slow, max_requests=1)

    async def work() -> int:
        tasks = [asyncio.create_task(scheduler.submit(small_request(slow))) for _ in range(5)]
        await asyncio.sleep(0)
        await scheduler.drain()
        await asyncio.sleep(0)
        return sum(task.done() for task in tasks)

    assert run(scheduler, work()) == 5


def test_two_batches_at_a_time(slow: Model) -> None:
    scheduler = scheduler_for(slow, concurrency=2, window_seconds=0.001, max_requests=1)

    async def work() -> float:
        begun = time.monotonic()
        first = asyncio.create_task(scheduler.submit(long_request(slow, examples=16)))
        await asyncio.sleep(0.005)
        await scheduler.submit(small_request(slow))
        done_first = first.done()
        await first
        assert not done_first, "the small request waited for the long one"
        return time.monotonic() - begun

    run(scheduler, work())
