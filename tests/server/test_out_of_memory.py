"""A GPU without memory for a batch: the bound is lowered, halves run once more, what does not fit then is refused."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from lazyneuron.engine.artifact import MODEL_FILE
from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.errors import DeviceMemoryError, LazyneuronError
from lazyneuron.engine.model import Model
from lazyneuron.engine.requests import Request
from lazyneuron.engine.session import Sessions, open_session
from lazyneuron.server.config import BatchingConfig, ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.scheduler import Answer, Scheduler
from lazyneuron.server.status import PUSHBACK_KEY, status_of, trailing_metadata


class Small:
    """A session on a device that holds so many tokens of a batch."""

    def __init__(self, session: Any, holds: int) -> None:
        self.session, self.holds = session, holds
        self.tried: list[int] = []

    def run(self, fetches: Sequence[str], feed: Mapping[str, Any]) -> Any:
        tokens = feed["input_ids"].size
        self.tried.append(tokens)
        if tokens > self.holds:
            raise RuntimeError(f"bfc_arena.cc Failed to allocate memory for requested buffer of size {tokens}000")
        return self.session.run(fetches, feed)


@pytest.fixture(scope="module")
def plain(repository: Path) -> Model:
    return Model.load(repository / "text", threads=1)


GPU = Device("cuda", 0)


def model_on(repository: Path, plain: Model, holds: int, device: Device = GPU) -> tuple[Model, Small]:
    session = Small(open_session(repository / "text" / "1" / MODEL_FILE, threads=1), holds)
    return Model(plain.manifest, Sessions([session]), None, devices=(device,)), session


def request(model: Model, examples: int = 1, length: int = 16, word: int = 2) -> Request:
    return model.request({"input_ids": np.full((examples, length), word)})


class Run:
    """What came of some requests that arrived together."""

    def __init__(self, model: Model, *requests: Request, **batching: Any) -> None:
        self.metrics = Metrics()
        scheduler = Scheduler(model, ServerConfig(batching=BatchingConfig(**batching)), self.metrics)

        async def work() -> list[Answer | BaseException]:
            calls: list[Coroutine[Any, Any, Answer]] = [scheduler.submit(each) for each in requests]
            return await asyncio.gather(*calls, return_exceptions=True)

        try:
            self.answers = asyncio.run(work())
            self.bound = self.value("batch_limit_tokens")
        finally:
            scheduler.close()

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"lazyneuron_{name}", {"model": "text", "version": "1"})


def check(plain: Model, asked: Request, answer: Answer | BaseException) -> None:
    assert isinstance(answer, Answer), answer
    expected = plain.run([asked]).predictions[0]
    for name, output in expected.outputs.items():
        np.testing.assert_allclose(answer.prediction.outputs[name], output, rtol=1e-5, atol=1e-6)
    assert answer.prediction.sparsity == expected.sparsity


def test_a_batch_that_does_not_fit_runs_in_halves(repository: Path, plain: Model) -> None:
    model, session = model_on(repository, plain, holds=300)
    asked = [request(model, word=2 + number % 8) for number in range(32)]
    ran = Run(model, *asked)
    assert session.tried == [512, 256, 256]
    assert ran.bound == 256
    assert ran.value("out_of_memory_batches_total") == 1
    assert ran.value("batch_requests_count") == 2
    for each, answer in zip(asked, ran.answers, strict=True):
        check(plain, each, answer)
        assert isinstance(answer, Answer)
        assert answer.batch_requests == 16


def test_it_is_retried_once_and_then_refused_in_words(repository: Path, plain: Model) -> None:
    model, session = model_on(repository, plain, holds=100)
    ran = Run(model, *(request(model) for _ in range(32)))
    assert session.tried == [512, 256, 256]
    for error in ran.answers:
        assert isinstance(error, DeviceMemoryError)
        assert str(error).startswith("text: a batch of 256 tokens does not fit into the memory of cuda:0: bfc_arena")
        assert str(error).endswith("a larger batch did not, either: send shorter inputs, or fewer at a time")
        assert (status_of(error), error.refusal) == (StatusCode.RESOURCE_EXHAUSTED, "device_memory")
        assert (PUSHBACK_KEY, "-1") in trailing_metadata(error)


def test_the_next_batches_keep_to_the_lower_bound(repository: Path, plain: Model) -> None:
    model, session = model_on(repository, plain, holds=300)
    Run(model, *(request(model) for _ in range(32)))
    session.tried.clear()
    ran = Run(model, *(request(model) for _ in range(32)))
    assert session.tried == [256, 256]
    assert all(isinstance(answer, Answer) for answer in ran.answers)


def test_a_lone_request_runs_in_halves_and_is_answered_whole(repository: Path, plain: Model) -> None:
    model, session = model_on(repository, plain, holds=300)
    asked = model.request({"input_ids": np.arange(32 * 16).reshape(32, 16) % 12})
    ran = Run(model, asked)
    assert session.tried == [512, 256, 256]
    check(plain, asked, ran.answers[0])


def test_one_example_is_tried_once_more_as_it_is(repository: Path, plain: Model) -> None:
    model, session = model_on(repository, plain, holds=10)
    (error,) = Run(model, request(model, length=16)).answers
    assert session.tried == [16, 16]
    assert isinstance(error, DeviceMemoryError)


def test_the_bound_is_not_lowered_to_nothing(repository: Path, plain: Model) -> None:
    model, _ = model_on(repository, plain, holds=10)
    assert Run(model, *(request(model) for _ in range(6))).bound == 64


def test_parts_of_one_large_request(repository: Path, plain: Model) -> None:
    """It runs in batches of 256 tokens; the second of its parts does not fit, and is halved among the others."""
    model, session = model_on(repository, plain, holds=200)
    asked = model.request({"input_ids": np.arange(40 * 16).reshape(40, 16) % 12})
    ran = Run(model, asked, max_tokens=256)
    check(plain, asked, ran.answers[0])
    assert max(session.tried) <= 256
    assert ran.bound is not None
    assert ran.bound <= 128


def test_a_bad_request_in_a_half_does_not_fail_its_neighbours(repository: Path, plain: Model) -> None:
    model, _ = model_on(repository, plain, holds=300)
    asked = [request(model) for _ in range(31)]
    bad = request(model, word=10**6)
    ran = Run(model, *asked, bad)
    assert sum(isinstance(answer, Answer) for answer in ran.answers) == 31
    assert isinstance(ran.answers[-1], LazyneuronError)
    assert not isinstance(ran.answers[-1], DeviceMemoryError)


def test_the_cpu_keeps_to_its_own_ways(repository: Path, plain: Model) -> None:
    model, session = model_on(repository, plain, holds=300, device=CPU)
    ran = Run(model, *(request(model) for _ in range(32)))
    assert session.tried == [512] + [16] * 32
    assert all(isinstance(answer, Answer) for answer in ran.answers)
    assert ran.bound == 8192
    assert ran.value("out_of_memory_batches_total") == 0
