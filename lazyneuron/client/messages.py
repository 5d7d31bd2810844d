"""Between what a caller has and the wire's messages: what both clients share. Nothing here sends anything."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import ArrayLike

from lazyneuron.engine import errors
from lazyneuron.engine.accounting import BlockCounts, Sparsity
from lazyneuron.engine.heads.answers import Answer
from lazyneuron.engine.origins import image_content
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.answers import read_answer
from lazyneuron.server.status import ERROR_KEY, PUSHBACK_KEY
from lazyneuron.server.tensors import DATATYPES, Array, decode, encode

__all__ = [
    "Inputs",
    "ModelInfo",
    "ServedPrediction",
    "TensorInfo",
    "Timing",
    "encodable",
    "model_info",
    "not_ready",
    "predict_request",
    "prediction",
    "raised",
    "wait_on",
]

_INPUT_ERROR = re.compile(r"(?s)(?P<field>.*?): got (?P<got>.*); expected (?P<expected>.*)")

Inputs = Mapping[str, ArrayLike] | str | bytes | Path
"""Arrays by input name, each with its batch axis; a text; or an image, as its file's bytes or path."""


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
    """A server's answer: `outputs`, `answers` and `sparsity` as of `Model.predict`, and who gave them.

    Attributes
    ----------
    budget
        The share of the exported k that was used: what was asked for, or less where an overloaded server may lower it;
        None from a server that does not tell.
    """

    outputs: Mapping[str, Array]
    sparsity: Sparsity
    model_name: str
    model_version: int
    timing: Timing
    answers: tuple[Answer, ...] = ()
    budget: float | None = None

    @property
    def answer(self) -> Answer | None:
        """The answer for one text or image; of several examples the first's."""
        return next(iter(self.answers), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answer's labels: classes or words, the best first; the best of each token, mask or object."""
        return () if self.answer is None else self.answer.labels


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or an output of a served model.

    Attributes
    ----------
    name
        Its name.
    dtype
        Of its elements; None where NumPy has none (texts and files).
    shape
        The length of each axis; -1 for any.
    """

    name: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model, as the server describes it.

    Attributes
    ----------
    name, versions
        Its name, and the versions that are served.
    inputs, outputs
        Its tensors.
    """

    name: str
    versions: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def predict_request(
    name: str,
    inputs: Inputs,
    version: int | None,
    budget: float,
    top: int | None,
    *,
    outputs: bool,
    quality: str | None = None,
) -> pb.PredictRequest:
    """Return the message that asks for a prediction; `AsyncClient.predict` and `Client.predict` say what it takes.

    Raises
    ------
    InputError
        If the input cannot be sent.
    """
    if top is not None and not 0 <= top < 2**32:
        raise errors.InputError("top", got=str(top), expected="at least 0")
    if version is not None and not 0 <= version < 2**63:
        raise errors.InputError("version", got=str(version), expected="a positive integer, or None")
    if quality is not None and budget != 1.0:
        raise errors.InputError("budget", got=f"{budget:g} and the quality {quality!r}", expected="one of the two")
    request = pb.PredictRequest(model_name=encodable("name", name), model_version=version, top=top)
    if quality is None:
        request.budget = budget
    else:
        request.quality = encodable("quality", quality)
    request.omit_outputs = not outputs
    if isinstance(inputs, str):
        request.text = encodable("text", inputs)
    elif isinstance(inputs, bytes | Path):
        request.image = image_content(inputs)
    else:
        request.inputs.tensors.extend(_tensor(key, value) for key, value in _named(inputs))
        request.inputs.SetInParent()
    return request


def prediction(response: pb.PredictResponse) -> ServedPrediction:
    """Return a message's prediction. The arrays are read-only and share the message's bytes."""
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
        budget=response.budget or None,
    )


def model_info(response: oip.ModelMetadataResponse) -> ModelInfo:
    """Return a message's description of a model."""
    return ModelInfo(
        name=response.name,
        versions=tuple(int(version) for version in response.versions if version.isdecimal()),
        inputs=tuple(map(_tensor_info, response.inputs)),
        outputs=tuple(map(_tensor_info, response.outputs)),
    )


def encodable(field: str, text: str) -> str:
    """Return a text that a message can hold.

    Raises
    ------
    InputError
        If it has half a surrogate pair, as JSON may have, and an argument that is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.InputError(field, got=f"{error.object[error.start]!r}", expected="Unicode characters") from None
    return text


def raised(error: Any, address: str) -> errors.LazyneuronError:  # noqa: ANN401  RpcError's type has none of these methods
    """Return our error for gRPC's: the class that the server names, or what the status says."""
    code, details = error.code(), str(error.details() or "")
    metadata = dict(error.trailing_metadata() or ())
    kind = metadata.get(ERROR_KEY)
    if kind == "QueueFullError":
        return errors.QueueFullError(details, retry_after=int(metadata.get(PUSHBACK_KEY, 0)) / 1000)
    if kind == "InputError" and (parts := _INPUT_ERROR.fullmatch(details)) is not None:
        return errors.InputError(parts["field"], got=parts["got"], expected=parts["expected"])
    plain = getattr(errors, str(kind)) if kind in errors.__all__ else None
    if plain is not None and issubclass(plain, errors.ServingError):
        made: errors.ServingError = plain(details)
        return made
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(f"{address}: no answer before the timeout")
    if code is grpc.StatusCode.CANCELLED:  # not by us: the server cuts calls off unread when more come than it can read
        return errors.ServingError(
            f"{address}: the server ended the call, since it has too much to do or is stopping; try again later"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServingError(f"{address}: no server answers ({details}); start one with `lazyneuron serve`")
    return errors.ServingError(f"{address}: {code.name}: {details}")


def wait_on(error: Any, address: str, name: str | None) -> str | None:  # noqa: ANN401
    """Say why a server is not ready yet; None where the time is up.

    Raises
    ------
    LazyneuronError
        If waiting will not help.
    """
    code = error.code()
    if code is grpc.StatusCode.NOT_FOUND:
        return f"it has no model named {name!r}"
    if code is grpc.StatusCode.UNAVAILABLE:
        return str(error.details())
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return None
    raise raised(error, address) from None


def not_ready(address: str, name: str | None, seconds: float, why: str) -> errors.ServingError:
    """Return the error of a wait that was in vain."""
    what = "the server" if name is None else f"model {name!r}"
    return errors.ServingError(f"{address}: {what} is not ready after {seconds:g} s: {why}")


def _named(inputs: object) -> Iterable[tuple[str, ArrayLike]]:
    if isinstance(inputs, Mapping):
        return inputs.items()
    expected = "arrays by input name, a text, or an image's bytes or path"
    raise errors.InputError("inputs", got=type(inputs).__name__, expected=expected)


def _tensor(name: str, value: ArrayLike) -> pb.Tensor:
    encodable("the name of an input", name)
    try:
        array = np.asarray(value)
    except ValueError:
        raise errors.InputError(name, got="lists of unequal lengths", expected="an array") from None
    try:
        datatype, shape, data = encode(array)
    except KeyError:
        raise errors.InputError(name, got=f"dtype {array.dtype}", expected="numbers or booleans") from None
    return pb.Tensor(name=name, datatype=datatype, shape=shape, data=data)


def _tensor_info(tensor: oip.ModelMetadataResponse.TensorMetadata) -> TensorInfo:
    return TensorInfo(tensor.name, DATATYPES.get(tensor.datatype), tuple(tensor.shape))
