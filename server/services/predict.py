"""`lazyneuron.v1.PredictionService`."""

from typing import Any

import grpc

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.heads.reader import TOP
from lazyneuron.engine.model import Model
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceServicer
from lazyneuron.server.answers import write_answer
from lazyneuron.server.scheduler import Answer
from lazyneuron.server.services.context import deadline_of
from lazyneuron.server.serving import Inputs, Serving
from lazyneuron.server.tensors import Array, decode, encode

__all__ = ["PredictionService"]


class PredictionService(PredictionServiceServicer):
    """Text, an image or named tensors in; outputs and what they say out, with what was really skipped.

    Parameters
    ----------
    serving
        The models.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def Predict(  # noqa: N802  the protocol's name
        self, request: pb.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PredictResponse:
        """Run one model on one request."""
        version = request.model_version if request.HasField("model_version") else None
        served = self._serving.find(request.model_name, version)
        answer = await self._serving.predict(
            served,
            lambda: _inputs(request),
            size=request.ByteSize(),
            image=request.HasField("image"),
            budget=request.budget if request.HasField("budget") else 1.0,
            deadline=deadline_of(context),
        )
        readings = await self._serving.read(answer.prediction, _top(request))
        response = _response(served.model, answer, outputs=not request.omit_outputs)
        response.answers.extend(map(write_answer, readings))
        return response


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
        outputs=[_tensor(name, array) for name, array in answer.prediction.outputs.items() if outputs],
        sparsity=_sparsity(answer.prediction.sparsity),
        timing=pb.Timing(
            queue_seconds=answer.queue_seconds,
            inference_seconds=answer.inference_seconds,
            batch_requests=answer.batch_requests,
            batch_size=answer.batch_size,
        ),
    )


def _tensor(name: str, array: Array) -> pb.Tensor:
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
