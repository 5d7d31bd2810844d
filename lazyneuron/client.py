"""Calls a running server. Needs neither ONNX Runtime nor an artifact."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from numpy.typing import ArrayLike

from lazyneuron.engine import errors
from lazyneuron.engine.accounting import BlockCounts, Sparsity
from lazyneuron.engine.heads.answers import Answer
from lazyneuron.engine.origins import image_content
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.answers import read_answer
from lazyneuron.server.status import ERROR_KEY, PUSHBACK_KEY
from lazyneuron.server.tensors import Array, decode, encode

__all__ = ["Client", "ServedPrediction", "Timing"]

_INPUT_ERROR = re.compile(r"(?s)(?P<field>.*?): got (?P<got>.*); expected (?P<expected>.*)")


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went, as the server saw it.

    Attributes
    ----------
    queue_seconds, inference_seconds
        Waiting for its batch, and the batch's time in the engine.
    batch_requests, batch_size
        The requests and the examples in that batch.
    """

    queue_seconds: float
    inference_seconds: float
    batch_requests: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class ServedPrediction:
    """A server's answer: `outputs`, `answers` and `sparsity` as of `Model.predict`, and who gave them."""

    outputs: Mapping[str, Array]
    sparsity: Sparsity
    model_name: str
    model_version: int
    timing: Timing
    answers: tuple[Answer, ...] = ()

    @property
    def answer(self) -> Answer | None:
        """The answer for one text or image; of several examples the first's."""
        return next(iter(self.answers), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answer's labels: classes or words, the best first; the best of each token, mask or object."""
        return () if self.answer is None else self.answer.labels


class Client:
    """A connection to a server. Safe to use from several threads; close it, or use it in a `with` statement.

    Parameters
    ----------
    address
        `HOST:PORT` of the server's gRPC.
    """

    def __init__(self, address: str) -> None:
        if not isinstance(address, str) or not address:
            raise errors.ConfigurationError(f"address is {address!r}; expected HOST:PORT")
        self._address = address
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=unlimited)  # the server's own limits hold
        self._predict = PredictionServiceStub(self._channel).Predict

    def predict(
        self,
        name: str,
        inputs: Mapping[str, ArrayLike] | str | bytes | Path,
        version: int | None = None,
        budget: float = 1.0,
        timeout: float | None = None,
        *,
        top: int | None = None,
        outputs: bool = True,
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
            Seconds until the answer is of no use; the server does not start work after it.
        top
            The most classes, words or objects of an answer, 0 for no answers; None: five for a text or an image, none
            for arrays.
        outputs
            Whether the outputs' arrays are sent back too.

        Raises
        ------
        LazyneuronError
            The error that the server raised: InputError, ModelNotFoundError, QueueFullError, …
        ServingError
            If no server answers.
        """
        if top is not None and not 0 <= top < 2**32:
            raise errors.InputError("top", got=str(top), expected="at least 0")
        request = pb.PredictRequest(model_name=name, model_version=version, budget=budget, top=top)
        request.omit_outputs = not outputs
        if isinstance(inputs, str):
            request.text = inputs
        elif isinstance(inputs, bytes | Path):
            request.image = image_content(inputs)
        else:
            request.inputs.tensors.extend(_tensor(key, value) for key, value in inputs.items())
            request.inputs.SetInParent()
        try:
            return _prediction(self._predict(request, timeout=timeout))
        except grpc.RpcError as error:
            raise _raised(error, self._address) from None

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _tensor(name: str, value: ArrayLike) -> pb.Tensor:
    array = np.asarray(value)
    try:
        datatype, shape, data = encode(array)
    except KeyError:
        raise errors.InputError(name, got=f"dtype {array.dtype}", expected="numbers or booleans") from None
    return pb.Tensor(name=name, datatype=datatype, shape=shape, data=data)


def _prediction(response: pb.PredictResponse) -> ServedPrediction:
    blocks = tuple(
        BlockCounts(b.name, b.rows, b.neurons, b.active, b.candidates, b.flops_dense, b.flops_executed)
        for b in response.sparsity.blocks
    )
    timing = response.timing
    return ServedPrediction(
        outputs={t.name: decode(t.name, t.datatype, t.shape, t.data) for t in response.outputs},
        sparsity=Sparsity(blocks),
        model_name=response.model_name,
        model_version=response.model_version,
        timing=Timing(timing.queue_seconds, timing.inference_seconds, timing.batch_requests, timing.batch_size),
        answers=tuple(a for message in response.answers if (a := read_answer(message)) is not None),
    )


def _raised(error: Any, address: str) -> errors.LazyneuronError:  # noqa: ANN401  RpcError's type has none of these methods
    """Return our error for gRPC's: the class that the server names, or what the status says."""
    code, details = error.code(), str(error.details() or "")
    metadata = dict(error.trailing_metadata() or ())
    kind = metadata.get(ERROR_KEY)
    if kind == "QueueFullError":
        return errors.QueueFullError(details, retry_after=int(metadata.get(PUSHBACK_KEY, 0)) / 1000)
    if kind == "InputError" and (parts := _INPUT_ERROR.fullmatch(details)) is not None:
        return errors.InputError(parts["field"], got=parts["got"], expected=parts["expected"])
    for plain in (errors.ModelNotFoundError, errors.DeadlineExceededError, errors.ShuttingDownError):
        if kind == plain.__name__:
            return plain(details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(f"{address}: no answer before the timeout")
    if code is grpc.StatusCode.CANCELLED:  # not by us: the server went away with the call unread
        return errors.ShuttingDownError(f"{address}: the server ended the call; send it to another")
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServingError(f"{address}: no server answers ({details}); start one with `lazyneuron serve`")
    return errors.ServingError(f"{address}: {code.name}: {details}")
