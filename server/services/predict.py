"""`lazyneuron.v1.PredictionService`."""

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.errors import InputError, QueueFullError
from lazyneuron.engine.heads.answers import Answer as Reading
from lazyneuron.engine.heads.reader import TOP
from lazyneuron.engine.model import Model
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceServicer
from lazyneuron.server.answers import write_answer
from lazyneuron.server.calls import Call, answering, refusal
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.scheduler import Answer
from lazyneuron.server.services.context import deadline_of
from lazyneuron.server.serving import Inputs, Serving
from lazyneuron.server.streams import Streams
from lazyneuron.server.tensors import Array, decode, encode

__all__ = ["PredictionService", "predict", "run", "tensor_message"]

Context = grpc.aio.ServicerContext[Any, Any]

_STREAM = "/lazyneuron.v1.PredictionService/PredictStream"


class PredictionService(PredictionServiceServicer):
    """Text, an image or named tensors in; outputs and what they say out, with what was really skipped.

    Parameters
    ----------
    serving
        The models.
    metrics
        Where a stream's requests are counted.
    streams
        The open streams.
    """

    def __init__(self, serving: Serving, metrics: Metrics, streams: Streams) -> None:
        self._serving = serving
        self._metrics = metrics
        self._streams = streams

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:  # noqa: N802  the protocol's name
        """Run one model on one request."""
        return await predict(self._serving, request, deadline_of(context))

    async def PredictStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.PredictRequest | InputError], context: Context
    ) -> AsyncGenerator[pb.PredictStreamResponse, None]:
        """Run many requests on one stream; answers come as they are ready, each with its request's id.

        A request that fails is answered with an error; the stream goes on.
        """

        async def answer(request: pb.PredictRequest | InputError) -> pb.PredictStreamResponse:
            call = Call(_STREAM)
            try:
                with answering(self._metrics, call):
                    if isinstance(request, InputError):
                        raise request
                    response = await predict(self._serving, request, deadline_of(context))
            except Exception as error:  # noqa: BLE001  it is answered
                identity = "" if isinstance(request, InputError) else request.id
                return pb.PredictStreamResponse(id=identity, error=_error(call, error))
            return pb.PredictStreamResponse(id=request.id, response=response)

        async for response in self._streams.run(request_iterator, answer, ordered=False):
            yield response


async def predict(serving: Serving, request: pb.PredictRequest, deadline: float | None) -> pb.PredictResponse:
    """Run one model on one request, of whatever transport.

    Parameters
    ----------
    serving
        The models.
    request
        As it came; nothing in it is trusted.
    deadline
        The transport's, on the clock of `time.monotonic`; the request's `timeout_seconds` may bring it forward.

    Raises
    ------
    LazyneuronError
        As `Serving.predict`.
    """
    model, answer, readings = await run(serving, request, deadline)
    response = _response(model, answer, outputs=not request.omit_outputs)
    response.answers.extend(map(write_answer, readings))
    return response


async def run(
    serving: Serving, request: pb.PredictRequest, deadline: float | None, *, row_counts: bool = False
) -> tuple[Model, Answer, tuple[Reading, ...]]:
    """Do what `predict` does; return the model, what came out of it, and what that says.

    Parameters
    ----------
    row_counts
        Whether the prediction shall tell what each row used, too.

    Raises
    ------
    LazyneuronError
        As `Serving.predict`.
    """
    version = request.model_version if request.HasField("model_version") else None
    served = serving.find(request.model_name, version)
    answer = await serving.predict(
        served,
        lambda: _inputs(request),
        size=request.ByteSize(),
        image=request.HasField("image"),
        budget=request.budget if request.HasField("budget") else None,
        quality=request.quality,
        deadline=_deadline(request, deadline),
        row_counts=row_counts,
    )
    return served.model, answer, await serving.read(answer.prediction, _top(request))


def _deadline(request: pb.PredictRequest, deadline: float | None) -> float | None:
    if not request.HasField("timeout_seconds"):
        return deadline
    if not 0 < request.timeout_seconds < math.inf:
        raise InputError("timeout_seconds", got=str(request.timeout_seconds), expected="seconds, more than 0")
    own = time.monotonic() + request.timeout_seconds
    return own if deadline is None else min(own, deadline)


def _error(call: Call, error: Exception) -> pb.PredictError:
    code, words = refusal(call, error)
    number: int = code.value[0]
    message = pb.PredictError(code=number, message=words)
    if code is not grpc.StatusCode.INTERNAL:
        message.kind = type(error).__name__
    if isinstance(error, QueueFullError):
        message.retry_after_seconds = error.retry_after
    return message


def _top(request: pb.PredictRequest) -> int:
    """Return how many candidates an answer shall have; who sends tensors mostly reads tensors too."""
    if request.HasField("top"):
        return request.top
    return 0 if request.HasField("inputs") else TOP


def _inputs(request: pb.PredictRequest) -> Inputs:
    kind = request.WhichOneof("input")
    if kind == "text":
        return request.text
    if kind == "image":
        return request.image
    if kind is None:
        raise InputError("input", got="neither text, image nor inputs", expected="one of them")
    arrays: dict[str, Array] = {}
    for tensor in request.inputs.tensors:
        if tensor.name in arrays:
            raise InputError(f"input {tensor.name[:80]!r}", got="it twice", expected="each input once")
        arrays[tensor.name] = decode(tensor.name, tensor.datatype, tensor.shape, tensor.data)
    return arrays


def _response(model: Model, answer: Answer, *, outputs: bool) -> pb.PredictResponse:
    return pb.PredictResponse(
        model_name=model.name,
        model_version=model.version,
        outputs=[tensor_message(name, array) for name, array in answer.prediction.outputs.items() if outputs],
        sparsity=_sparsity(answer.prediction.sparsity),
        budget=answer.budget,
        timing=pb.Timing(
            queue_seconds=answer.queue_seconds,
            inference_seconds=answer.inference_seconds,
            batch_requests=answer.batch_requests,
            batch_size=answer.batch_size,
        ),
    )


def tensor_message(name: str, array: Array) -> pb.Tensor:
    """Return an array as a message."""
    datatype, shape, data = encode(array)
    return pb.Tensor(name=name, datatype=datatype, shape=shape, data=data)


def _sparsity(sparsity: Sparsity) -> pb.Sparsity:
    blocks = [
        pb.BlockSparsity(
            name=block.name,
            rows=block.rows,
            neurons=block.neurons,
            active=block.active,
            candidates=block.candidates,
            flops_dense=block.flops_dense,
            flops_executed=block.flops_executed,
            density=block.density,
        )
        for block in sparsity.blocks
    ]
    return pb.Sparsity(
        blocks=blocks,
        density=sparsity.density,
        flops_dense=sparsity.flops_dense,
        flops_executed=sparsity.flops_executed,
        flops_saved=sparsity.flops_saved,
    )
