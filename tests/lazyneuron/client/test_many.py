"""`predict_many` of both clients, `AsyncClient`, and waiting for a server."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import numpy as np
import pytest

import lazyneuron
from lazyneuron.client import AsyncClient, Client, Inputs, Retries, ServedPrediction
from lazyneuron.engine import errors
from lazyneuron.engine.model import Model
from lazyneuron.protocol import prediction_pb2 as pb
from tests.support.artifacts import write_vector_model
from tests.support.scripted import scripted, until
from tests.support.server import ServerProcess, serving

X = np.random.default_rng(4).normal(size=(60, 1, 16)).astype(np.float32)


@pytest.fixture(params=["synchronous", "asynchronous"])
def many(request: pytest.FixtureRequest):
    """`predict_many` of either client, as a list."""

    def synchronous(address: str, name: str, inputs, **options) -> list:
        with Client(address, retries=Retries(attempts=1)) as client:
            return list(client.predict_many(name, inputs, **options))

    async def gathered(address: str, name: str, inputs, **options) -> list:
        async with AsyncClient(address, retries=Retries(attempts=1)) as client:
            return [answer async for answer in client.predict_many(name, inputs, **options)]

    def asynchronous(*arguments, **options) -> list:
        return asyncio.run(gathered(*arguments, **options))

    return synchronous if request.param == "synchronous" else asynchronous


def shuffled(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
    """Answer with the text, after a while of its own; refuse the text "bad"."""
    threading.Event().wait(random.Random(request.text).random() * 0.02)
    if request.text == "bad":
        context.abort(grpc.StatusCode.INTERNAL, "bad")
    return pb.PredictResponse(model_name=request.text)


def test_the_answers_are_right_and_in_order(many, server: ServerProcess, models: Path) -> None:
    model = Model.load(models / "vector")
    answers = many(server.grpc, "vector", [{"x": x} for x in X], budget=0.5, concurrency=8)
    for x, answer in zip(X, answers, strict=True):
        assert np.array_equal(answer.outputs["logits"], model.predict({"x": x}, 0.5).outputs["logits"])


@pytest.mark.parametrize("concurrency", [1, 5, 200])
def test_no_more_are_under_way_than_asked(many, concurrency: int) -> None:
    texts = [f"text {number}" for number in range(80)]
    with scripted(shuffled) as server:
        answers = many(server.address, "m", texts, concurrency=concurrency)
    assert [answer.model_name for answer in answers] == texts
    assert server.calls == 80
    assert 1 <= server.most_at_once <= concurrency


def test_a_slow_answer_does_not_keep_others_from_being_sent(many) -> None:
    release, seen = threading.Event(), []

    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        seen.append(request.text)
        if request.text == "0":
            release.wait(30)
        if len(seen) == 8:  # four times the concurrency: the others have all been sent past it
            release.set()
        return pb.PredictResponse(model_name=request.text)

    with scripted(answer) as server:
        answers = many(server.address, "m", [str(n) for n in range(20)], concurrency=2)
    assert [answer.model_name for answer in answers] == [str(n) for n in range(20)]


def test_inputs_are_taken_as_they_are_needed() -> None:
    taken = []

    def texts() -> Iterator[str]:
        for number in range(10_000):
            taken.append(number)
            yield str(number)

    with scripted(shuffled) as server, Client(server.address) as client:
        answers = client.predict_many("m", texts(), concurrency=3)
        for _ in range(10):
            next(answers)
        assert len(taken) <= 10 + 4 * 3 + 1
        answers.close()
        until(lambda: server.at_once == 0, "what was under way is cancelled")
    assert server.calls <= len(taken)


def test_an_error_takes_the_answer_s_place(many) -> None:
    inputs: list[Inputs] = ["a", "bad", "b", {"x": np.array(["text"])}, "c"]
    with scripted(shuffled) as server:
        outcomes = many(server.address, "m", inputs, errors="return")
        kinds = [o.model_name if isinstance(o, ServedPrediction) else type(o).__name__ for o in outcomes]
        assert kinds == ["a", "ServingError", "b", "InputError", "c"]
        with pytest.raises(errors.ServingError, match="INTERNAL: bad"):
            many(server.address, "m", inputs)


def test_no_inputs_no_answers(many, server: ServerProcess) -> None:
    assert many(server.grpc, "vector", []) == []


def test_what_the_inputs_raise_is_raised(many) -> None:
    def inputs() -> Iterator[str]:
        yield "a"
        raise KeyError("mine")

    with scripted(shuffled) as server, pytest.raises(KeyError, match="mine"):
        many(server.address, "m", inputs())


def test_a_concurrency_that_is_none(many) -> None:
    with pytest.raises(errors.ConfigurationError, match="concurrency is 0; expected at least 1"):
        many("127.0.0.1:1", "m", ["a"], concurrency=0)


def test_an_asynchronous_source_may_wait_for_answers() -> None:
    """A conversation: each input is made of the answer before it."""

    async def talk(address: str) -> list[str]:
        said: asyncio.Queue[str] = asyncio.Queue()
        said.put_nowait("0")

        async def inputs() -> AsyncIterator[str]:
            for _ in range(5):
                yield await said.get()

        heard = []
        async with AsyncClient(address) as client, aclosing(client.predict_many("m", inputs())) as answers:  # type: ignore[type-var]
            async for answer in answers:
                heard.append(answer.model_name)
                said.put_nowait(str(int(answer.model_name) + 1))
        return heard

    with scripted(shuffled) as server:
        assert asyncio.run(talk(server.address)) == list("01234")


def test_cancelling_a_task_cancels_its_call() -> None:
    ended = threading.Event()

    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        context.add_callback(ended.set)
        ended.wait(30)
        return pb.PredictResponse()

    async def ask_and_leave(address: str) -> None:
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.predict("m", "text"))
            await asyncio.to_thread(until, lambda: server.calls == 1, "it is under way")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 20)

    with scripted(answer) as server:
        asyncio.run(ask_and_leave(server.address))


def test_an_asynchronous_client_does_all_that_the_other_does(server: ServerProcess, models: Path) -> None:
    async def run() -> None:
        async with lazyneuron.AsyncClient(server.grpc) as client:
            await client.wait_until_ready(timeout=20, name="text")
            answer = await client.predict("text", "few neurons work", top=2)
            assert answer.labels == Model.load(models / "text").predict("few neurons work").labels[:2]
            assert await client.model("vector") == synchronous
            with pytest.raises(errors.ModelNotFoundError, match="no model named 'none'"):
                await client.predict("none", "x")
            with pytest.raises(errors.ModelNotFoundError):
                await client.model("vector", version=9)
            with pytest.raises(errors.DeadlineExceededError):
                await client.predict("slow", {"x": np.ones((7, 512, 256), np.float32)}, timeout=0.02)

    with Client(server.grpc) as plain:
        synchronous = plain.model("vector")
    asyncio.run(run())


def test_a_model_is_described(server: ServerProcess) -> None:
    with Client(server.grpc) as client:
        info = client.model("text")
    assert (info.name, info.versions) == ("text", (1,))
    assert [(i.name, i.dtype, i.shape) for i in info.inputs[:2]] == [
        ("input_ids", np.dtype("int64"), (-1, -1)),
        ("attention_mask", np.dtype("int64"), (-1, -1)),
    ]
    assert info.outputs[0].name == "logits"


def test_waiting_for_a_server_that_starts(tmp_path: Path) -> None:
    write_vector_model(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "first") as first:
        port = int(first.grpc.rpartition(":")[2])
    ready = threading.Event()
    with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(errors.ServingError, match=r"the server is not ready after 0\.2 s"):
            client.wait_until_ready(timeout=0.2)
        waiting = threading.Thread(target=lambda: (client.wait_until_ready(60), ready.set()))
        waiting.start()
        with serving(tmp_path / "models", tmp_path / "second", grpc_port=port):
            waiting.join(60)
            assert ready.is_set()
            with pytest.raises(errors.ServingError, match=r"model 'other' is not ready after 0\.2 s: it has no model"):
                client.wait_until_ready(timeout=0.2, name="other")


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    client = Client(server.grpc)
    client.predict("vector", {"x": X[0]})
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.predict("vector", {"x": X[0]})
