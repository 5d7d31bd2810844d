"""The scheduler around a real model: what runs together, what is never run, and who suffers from whom."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyneuron.engine.errors import DeadlineExceededError, LazyneuronError, QueueFullError, ShuttingDownError
from lazyneuron.engine.model import Computed, Model, Prepared
from lazyneuron.engine.requests import Request
from lazyneuron.server.calls import Call, enter
from lazyneuron.server.config import BatchingConfig, BudgetConfig, ClientsConfig, QueueConfig, ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.scheduler import Answer, Scheduler
from lazyneuron.server.workers import Workers


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


async def one_runs(scheduler: Scheduler) -> None:
    while not scheduler._lane.running:
        await asyncio.sleep(0.001)


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


def test_a_short_request_that_is_alone_runs_where_it_arrived(text: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, where, compute = scheduler_for(text), [], text.compute

    def spy(prepared: Prepared) -> Computed:
        where.append(threading.current_thread())
        return compute(prepared)

    async def work() -> list[Any]:
        await scheduler.submit(words(text))  # until one has run, nobody knows how long it takes
        scheduler._lane.expected = 0.001  # on whatever machine
        monkeypatch.setattr(text, "compute", spy)
        enter(Call("method", alone=True))
        alone = [await scheduler.submit(words(text)) for _ in range(2)]
        with pytest.raises(LazyneuronError):
            await scheduler.submit(outside_vocabulary(text))
        enter(Call("method"))
        return alone + await gather(*(scheduler.submit(words(text)) for _ in range(3)))

    assert len(run(scheduler, work())) == 5
    here = [thread is threading.main_thread() for thread in where]
    assert here[:3] == [True] * 3
    assert set(here[3:]) == {False}


def test_what_arrives_while_the_engine_is_busy_runs_together(slow: Model) -> None:
    scheduler = scheduler_for(slow)

    async def work() -> list[Any]:
        first = asyncio.create_task(scheduler.submit(long_request(slow)))
        await one_runs(scheduler)
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
        await one_runs(scheduler)
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
        await one_runs(scheduler)
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
        await one_runs(scheduler)
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
        await one_runs(scheduler)
        await scheduler.submit(small_request(slow))
        done_first = first.done()
        await first
        assert not done_first, "the small request waited for the long one"
        return time.monotonic() - begun

    run(scheduler, work())


def test_a_large_request_runs_in_parts_and_is_answered_whole(text: Model) -> None:
    metrics = Metrics()
    scheduler = scheduler_for(text, metrics, max_tokens=12)
    ids = np.random.default_rng(0).integers(1, 12, (50, 5))
    answer = run(scheduler, scheduler.submit(text.request({"input_ids": ids})))
    expected = text.predict({"input_ids": ids})
    np.testing.assert_allclose(answer.prediction.outputs["logits"], expected.outputs["logits"], rtol=1e-5, atol=1e-6)
    assert answer.prediction.sparsity == expected.sparsity
    assert [a.labels for a in answer.prediction.answers] == [a.labels for a in expected.answers]
    labels = {"model": "text", "version": "1"}
    assert metrics.registry.get_sample_value("lazyneuron_batch_requests_count", labels) == 25
    assert answer.batch_size == 2
    assert answer.inference_seconds > 0
    assert scheduler._admission.requests == scheduler._admission.tokens == 0


def test_parts_let_others_in_between(slow: Model) -> None:
    scheduler = scheduler_for(slow, max_tokens=512)
    order: list[str] = []

    async def ask(name: str, request: Request) -> None:
        await scheduler.submit(request, client=name)
        order.append(name)

    async def work() -> None:
        large = slow.request({"x": np.ones((40, 64, 256), np.float32)})
        await asyncio.gather(ask("large", large), ask("small", small_request(slow)))

    run(scheduler, work())
    assert order == ["small", "large"]


def test_a_large_request_that_is_cancelled_frees_the_room_of_all_its_parts(slow: Model) -> None:
    scheduler = scheduler_for(slow, max_tokens=512)

    async def work() -> None:
        call = asyncio.create_task(scheduler.submit(slow.request({"x": np.ones((64, 64, 256), np.float32)})))
        await one_runs(scheduler)
        call.cancel()
        await asyncio.wait([call])
        assert len(scheduler._lane.queue) == 0
        assert scheduler._admission.requests == scheduler._admission.tokens == 0
        await scheduler.submit(small_request(slow))

    run(scheduler, work())


def test_a_part_that_fails_fails_its_request_and_no_other(text: Model) -> None:
    scheduler = scheduler_for(text, max_tokens=12)
    ids = np.full((20, 3), 2)
    ids[17, 1] = 10**6

    async def work() -> list[Any]:
        return await gather(scheduler.submit(text.request({"input_ids": ids})), scheduler.submit(words(text)))

    bad, good = run(scheduler, work())
    assert isinstance(bad, LazyneuronError)
    assert isinstance(good, Answer)
    assert len(scheduler._lane.queue) == 0


def test_everyone_gets_their_own_rows(text: Model) -> None:
    """Requests of all sizes from several clients, some given up, on batches that run at the same time."""
    random = np.random.default_rng(1)
    scheduler = scheduler_for(text, max_tokens=40, max_requests=6, concurrency=3, max_padding=0.5)
    inputs = [random.integers(1, 12, (random.integers(1, 9), random.integers(1, 20))) for _ in range(150)]
    expected = [text.predict({"input_ids": ids}) for ids in inputs]

    async def work() -> list[Any]:
        calls = []
        for number, ids in enumerate(inputs):
            request = text.request({"input_ids": ids})
            calls.append(asyncio.create_task(scheduler.submit(request, client=str(number % 4))))
            if number % 10 == 9:
                await asyncio.sleep(0)
                calls[number - 5].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    answered = 0
    for answer, alone in zip(run(scheduler, work()), expected, strict=True):
        if isinstance(answer, asyncio.CancelledError):
            continue
        answered += 1
        assert answer.prediction.sparsity == alone.sparsity
        for name, value in alone.outputs.items():
            np.testing.assert_allclose(answer.prediction.outputs[name], value, rtol=1e-4, atol=1e-5)
    assert answered >= 135
    assert scheduler._admission.requests == scheduler._admission.tokens == 0
    assert not scheduler._admission._clients


def test_one_client_s_crowd_does_not_keep_another_s_request_waiting(slow: Model) -> None:
    scheduler = scheduler_for(slow, max_requests=1)
    order: list[str] = []

    async def ask(name: str) -> None:
        await scheduler.submit(small_request(slow), client=name)
        order.append(name)

    async def work() -> None:
        await asyncio.gather(*(ask("crowd") for _ in range(40)), ask("lone"))

    run(scheduler, work())
    assert order.index("lone") <= 3


def test_models_that_share_workers_take_turns(slow: Model, text: Model) -> None:
    workers = Workers()
    config = ServerConfig(batching=BatchingConfig(max_requests=1))
    busy, other = (Scheduler(model, config, Metrics(), workers) for model in (slow, text))
    order: list[str] = []

    async def ask(name: str, scheduler: Scheduler, request: Request) -> None:
        await scheduler.submit(request)
        order.append(name)

    async def work() -> None:
        crowd = [ask("busy", busy, small_request(slow, 64)) for _ in range(20)]
        await asyncio.gather(*crowd, *(ask("other", other, words(text)) for _ in range(3)))

    try:
        asyncio.run(work())
    finally:
        for scheduler in (busy, other):
            scheduler.close()
        workers.close()
    assert [place for place, name in enumerate(order) if name == "other"][-1] < 12


def test_load_lowers_budgets_says_so_and_leaves_the_exact_ones(slow: Model) -> None:
    metrics = Metrics()
    config = ServerConfig(
        batching=BatchingConfig(max_requests=1),
        queue=QueueConfig(max_requests=10),
        clients=ClientsConfig(queue_share=1.0),
        budget=BudgetConfig(lowest=0.25),
    )
    scheduler = Scheduler(slow, config, metrics)

    async def work() -> list[Any]:
        first = asyncio.create_task(scheduler.submit(long_request(slow)))
        await one_runs(scheduler)
        exact = [scheduler.submit(small_request(slow), exact=True) for _ in range(5)]
        others = [scheduler.submit(small_request(slow)) for _ in range(5)]
        answers = await gather(*(call for pair in zip(exact, others, strict=True) for call in pair))
        return [await first, *answers]

    first, *rest = run(scheduler, work())
    assert first.budget == 1.0
    assert all(answer.budget == 1.0 for answer in rest[::2])
    lowered = [answer for answer in rest[1::2] if answer.budget < 1.0]
    assert lowered
    assert rest[-1].budget == 1.0  # the queue is empty again
    assert min(answer.budget for answer in lowered) >= 0.25

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"lazyneuron_{name}", {"model": "slow", "version": "1"})

    assert value("budget_lowered_requests_total") == len(lowered)
    assert value("budget_lowered_tokens_total") == 4 * len(lowered)
    assert value("budget") == 1.0


def test_closing_tells_those_who_still_wait(slow: Model) -> None:
    scheduler = scheduler_for(slow, max_requests=1)

    async def work() -> list[Any]:
        calls = [asyncio.create_task(scheduler.submit(long_request(slow))) for _ in range(5)]
        await one_runs(scheduler)
        scheduler.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(answer, ShuttingDownError) for answer in asyncio.run(work())) >= 3
