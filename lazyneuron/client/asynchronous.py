"""`lazyneuron.AsyncClient`: for asyncio."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Literal, overload

import grpc
from grpc_health.v1 import health_pb2

from lazyneuron.client.connection import (
    Retries,
    channel_options,
    check_address,
    check_positive,
    check_timeout,
    health_check,
)
from lazyneuron.client.messages import (
    Inputs,
    ModelInfo,
    ServedPrediction,
    encodable,
    model_info,
    not_ready,
    predict_request,
    prediction,
    raised,
    wait_on,
)
from lazyneuron.credentials import Credentials
from lazyneuron.engine.errors import LazyneuronError
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub

__all__ = ["AsyncClient"]

_LOOK_SECONDS = 0.05
_HELD = 4
"""Answers that wait for an earlier one are kept up to this many times `concurrency`."""

_Outcome = ServedPrediction | LazyneuronError


class AsyncClient:
    """A connection to a server, used from one event loop; close it, or use it in an `async with` statement.

    Cancelling a task cancels its call on the server too.

    Parameters
    ----------
    address, timeout, retries, keepalive, credentials
        As for `Client`. The connection belongs to the event loop of the first call.

    Raises
    ------
    ConfigurationError
        If one of these is wrong.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        retries: Retries = Retries(),  # noqa: B008  it is frozen
        keepalive: float = 30.0,
        credentials: Credentials | None = None,
    ) -> None:
        self._address = check_address(address)
        self._timeout = check_timeout(timeout)
        self._options = channel_options(retries, keepalive)
        self._credentials = credentials or Credentials()
        self._opened: grpc.aio.Channel | None = None

    @property
    def _channel(self) -> grpc.aio.Channel:
        """The channel, made by the first call: gRPC binds one to the event loop that is running then."""
        if self._opened is None:
            self._opened = self._credentials.async_channel(self._address, self._options)
            self._predict = PredictionServiceStub(self._opened).Predict
        return self._opened

    async def predict(
        self,
        name: str,
        inputs: Inputs,
        version: int | None = None,
        budget: float = 1.0,
        timeout: float | None = None,
        *,
        top: int | None = None,
        outputs: bool = True,
        quality: str | None = None,
    ) -> ServedPrediction:
        """Run one request; the parameters and errors are those of `Client.predict`."""
        request = predict_request(name, inputs, version, budget, top, outputs=outputs, quality=quality)
        limit = self._timeout if timeout is None else check_timeout(timeout)
        _ = self._channel
        try:
            return prediction(await self._predict(request, timeout=limit))
        except grpc.aio.AioRpcError as error:
            raise raised(error, self._address) from None

    @overload
    def predict_many(
        self,
        name: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        version: int | None = ...,
        budget: float = ...,
        timeout: float | None = ...,
        *,
        concurrency: int = ...,
        top: int | None = ...,
        outputs: bool = ...,
        quality: str | None = ...,
        errors: Literal["raise"] = ...,
    ) -> AsyncIterator[ServedPrediction]: ...

    @overload
    def predict_many(
        self,
        name: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        version: int | None = ...,
        budget: float = ...,
        timeout: float | None = ...,
        *,
        concurrency: int = ...,
        top: int | None = ...,
        outputs: bool = ...,
        quality: str | None = ...,
        errors: Literal["return"],
    ) -> AsyncIterator[ServedPrediction | LazyneuronError]: ...

    async def predict_many(
        self,
        name: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        version: int | None = None,
        budget: float = 1.0,
        timeout: float | None = None,
        *,
        concurrency: int = 16,
        top: int | None = None,
        outputs: bool = True,
        quality: str | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> AsyncIterator[_Outcome]:
        """Run a request for each of many inputs, several at a time, and give the answers in the inputs' order.

        The parameters and errors are those of `Client.predict_many`; the inputs may be an asynchronous iterable, too.
        An iteration that is left before its end goes on until the iterator is closed (`contextlib.aclosing`).
        """
        check_positive("concurrency", concurrency)
        free, held = asyncio.Semaphore(concurrency), asyncio.Semaphore(_HELD * concurrency)
        order: asyncio.Queue[asyncio.Task[_Outcome] | None] = asyncio.Queue()
        started: set[asyncio.Task[_Outcome]] = set()

        async def one(input_: Inputs) -> _Outcome:
            try:
                return await self.predict(
                    name, input_, version, budget, timeout, top=top, outputs=outputs, quality=quality
                )
            except LazyneuronError as error:
                return error
            finally:
                free.release()

        async def feed() -> None:
            try:
                async for input_ in _each(inputs):
                    await held.acquire()
                    await free.acquire()
                    task = asyncio.create_task(one(input_))
                    started.add(task)
                    task.add_done_callback(started.discard)
                    order.put_nowait(task)
            finally:
                order.put_nowait(None)

        feeder = asyncio.create_task(feed())
        try:
            while (task := await order.get()) is not None:
                outcome = await task
                held.release()
                if errors == "raise" and isinstance(outcome, LazyneuronError):
                    raise outcome
                yield outcome
            await feeder  # what the inputs raised
        finally:
            feeder.cancel()
            for left in started:
                left.cancel()
            await asyncio.gather(feeder, *started, return_exceptions=True)

    async def model(self, name: str, version: int | None = None, timeout: float | None = None) -> ModelInfo:
        """Describe a served model; as `Client.model`."""
        request = oip.ModelMetadataRequest(
            name=encodable("name", name), version="" if version is None else str(version)
        )
        limit = self._timeout if timeout is None else check_timeout(timeout)
        try:
            return model_info(await GRPCInferenceServiceStub(self._channel).ModelMetadata(request, timeout=limit))
        except grpc.aio.AioRpcError as error:
            raise raised(error, self._address) from None

    async def wait_until_ready(self, timeout: float = 30.0, name: str | None = None) -> None:
        """Return when the server takes requests; as `Client.wait_until_ready`."""
        check_timeout(timeout)
        ends = time.monotonic() + timeout
        check = health_check(self._channel)
        request = health_pb2.HealthCheckRequest(service=encodable("name", name or ""))
        why = "no server answers"
        while (remaining := ends - time.monotonic()) > 0:
            try:
                status = (await check(request, timeout=remaining, wait_for_ready=True)).status
            except grpc.aio.AioRpcError as error:
                why = wait_on(error, self._address, name) or why
            else:
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                why = "it does not take requests yet"
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, ends - time.monotonic())))
        raise not_ready(self._address, name, timeout, why)

    async def close(self) -> None:
        """Close the connection; calls that are under way are cancelled."""
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _each(inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Inputs]:
    if isinstance(inputs, AsyncIterable):
        async for one in inputs:
            yield one
    else:
        for one in inputs:
            yield one
