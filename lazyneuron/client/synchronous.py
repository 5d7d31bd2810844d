"""`lazyneuron.Client`: for threads and for plain scripts."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

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
from lazyneuron.engine.errors import LazyneuronError, ServingError
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub

if TYPE_CHECKING:
    from grpc import _CallFuture

    _Call = _CallFuture[pb.PredictResponse]

__all__ = ["Client"]

_LOOK_SECONDS = 0.05
_HELD = 4
"""Answers that wait for an earlier one are kept up to this many times `concurrency`."""

_Outcome = ServedPrediction | LazyneuronError


class Client:
    """A connection to a server. Safe to use from several threads; close it, or use it in a `with` statement.

    The connection is made by the first call, and made again when it was lost. It does not outlive a fork: make a client
    in each process.

    Parameters
    ----------
    address
        `HOST:PORT` of the server's gRPC.
    timeout
        Seconds until an answer is of no use, for calls that do not say; None: they wait as long as it takes.
    retries
        When a call that was refused is sent again.
    keepalive
        Seconds without a sign of life, while calls are under way, after which the server is asked for one; 0: never.
    credentials
        TLS and a token, for a server that asks for them; None: neither.

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
        options = channel_options(retries, keepalive)
        self._channel = (credentials or Credentials()).channel(self._address, options)
        self._predict = PredictionServiceStub(self._channel).Predict
        self._describe = GRPCInferenceServiceStub(self._channel).ModelMetadata
        self._check = health_check(self._channel)

    def predict(
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
        """Run one request.

        Parameters
        ----------
        name
            The model.
        inputs
            Arrays by input name, each with its batch axis; or a text, for a model with a tokenizer; or an image, as
            its file's path or bytes, for a model with an image preprocessor.
        version
            The model's version; None: the one that the server has.
        budget
            The share of the exported k that may be used, 0 < budget <= 1.
        timeout
            Seconds until the answer is of no use; the server does not start work after it. None: the client's.
        top
            The most classes, words or objects of an answer, 0 for no answers; None: five for a text or an image, none
            for arrays.
        outputs
            Whether the outputs' arrays are sent back too.
        quality
            A class of quality that the server's configuration names, in a budget's place.

        Raises
        ------
        LazyneuronError
            The error that the server raised: InputError, ModelNotFoundError, QueueFullError, …
        ServingError
            If no server answers.
        """
        request = predict_request(name, inputs, version, budget, top, outputs=outputs, quality=quality)
        limit = self._timeout if timeout is None else check_timeout(timeout)
        try:
            return prediction(self._predict(request, timeout=limit))
        except grpc.RpcError as error:
            raise raised(error, self._address) from None

    @overload
    def predict_many(
        self,
        name: str,
        inputs: Iterable[Inputs],
        version: int | None = ...,
        budget: float = ...,
        timeout: float | None = ...,
        *,
        concurrency: int = ...,
        top: int | None = ...,
        outputs: bool = ...,
        quality: str | None = ...,
        errors: Literal["raise"] = ...,
    ) -> Iterator[ServedPrediction]: ...

    @overload
    def predict_many(
        self,
        name: str,
        inputs: Iterable[Inputs],
        version: int | None = ...,
        budget: float = ...,
        timeout: float | None = ...,
        *,
        concurrency: int = ...,
        top: int | None = ...,
        outputs: bool = ...,
        quality: str | None = ...,
        errors: Literal["return"],
    ) -> Iterator[ServedPrediction | LazyneuronError]: ...

    def predict_many(
        self,
        name: str,
        inputs: Iterable[Inputs],
        version: int | None = None,
        budget: float = 1.0,
        timeout: float | None = None,
        *,
        concurrency: int = 16,
        top: int | None = None,
        outputs: bool = True,
        quality: str | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[_Outcome]:
        """Run a request for each of many inputs, several at a time, and give the answers in the inputs' order.

        Inputs are taken as they are needed, so they may be a generator over more than fits in memory. Closing the
        iterator before its end cancels what is under way.

        Parameters
        ----------
        name, version, budget, timeout, top, outputs, quality
            As for `predict`; the timeout is each request's own.
        inputs
            The inputs.
        concurrency
            How many requests are under way at the same time.
        errors
            What is done with a request that fails: "raise" its error, which ends the iteration; "return" it in the
            answer's place.

        Raises
        ------
        LazyneuronError
            As `predict`, with `errors="raise"`.
        """
        check_positive("concurrency", concurrency)
        limit = self._timeout if timeout is None else check_timeout(timeout)

        def requests() -> Iterator[pb.PredictRequest | LazyneuronError]:
            for one in inputs:
                try:
                    yield predict_request(name, one, version, budget, top, outputs=outputs, quality=quality)
                except LazyneuronError as error:
                    yield error

        return self._many(requests(), concurrency, limit, raising=errors == "raise")

    def _many(
        self,
        requests: Iterator[pb.PredictRequest | LazyneuronError],
        concurrency: int,
        timeout: float | None,
        *,
        raising: bool,
    ) -> Iterator[_Outcome]:
        # Not one stream (PredictStream), which would take a quarter less of both sides' processor time: on a stream
        # gRPC sends nothing again, and a refused request would fail instead of waiting for its turn.
        free = threading.Semaphore(concurrency)
        pending: deque[_Call | LazyneuronError] = deque()
        exhausted = False
        try:
            while True:
                room = not exhausted and len(pending) < _HELD * concurrency
                # Any call's end makes it free, so a slow first call does not keep the others from being followed.
                if room and free.acquire(blocking=not (pending and _done(pending[0]))):
                    request = next(requests, None)
                    if isinstance(request, pb.PredictRequest):
                        call = self._predict.future(request, timeout=timeout)
                        pending.append(call)
                        call.add_done_callback(lambda _: free.release())
                        continue
                    free.release()
                    exhausted = request is None
                    if request is not None:
                        pending.append(request)
                elif pending:
                    outcome = self._outcome(pending.popleft())
                    if raising and isinstance(outcome, LazyneuronError):
                        raise outcome
                    yield outcome
                else:
                    return
        finally:
            for left in pending:
                if not isinstance(left, LazyneuronError):
                    left.cancel()

    def _outcome(self, call: "_Call | LazyneuronError") -> _Outcome:
        if isinstance(call, LazyneuronError):
            return call
        try:
            return prediction(call.result())
        except grpc.FutureCancelledError:
            return ServingError(f"{self._address}: the client was closed before the answer came")
        except grpc.RpcError as error:
            return raised(error, self._address)

    def model(self, name: str, version: int | None = None, timeout: float | None = None) -> ModelInfo:
        """Describe a served model: its inputs and outputs.

        Raises
        ------
        LazyneuronError
            As `predict`.
        """
        request = oip.ModelMetadataRequest(
            name=encodable("name", name), version="" if version is None else str(version)
        )
        limit = self._timeout if timeout is None else check_timeout(timeout)
        try:
            return model_info(self._describe(request, timeout=limit))
        except grpc.RpcError as error:
            raise raised(error, self._address) from None

    def wait_until_ready(self, timeout: float = 30.0, name: str | None = None) -> None:
        """Return when the server takes requests: it may still be starting, or loading its models.

        Parameters
        ----------
        timeout
            The most seconds to wait.
        name
            The model that shall be ready; None: the server.

        Raises
        ------
        ServingError
            If it is not ready in time.
        """
        check_timeout(timeout)
        ends = time.monotonic() + timeout
        request = health_pb2.HealthCheckRequest(service=encodable("name", name or ""))
        why = "no server answers"
        while (remaining := ends - time.monotonic()) > 0:
            try:
                status = self._check(request, timeout=remaining, wait_for_ready=True).status
            except grpc.RpcError as error:
                why = wait_on(error, self._address, name) or why
            else:
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                why = "it does not take requests yet"
            time.sleep(min(_LOOK_SECONDS, max(0.0, ends - time.monotonic())))
        raise not_ready(self._address, name, timeout, why)

    def close(self) -> None:
        """Close the connection; calls that are under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _done(call: "_Call | LazyneuronError") -> bool:
    return isinstance(call, LazyneuronError) or call.done()
