"""`inference.GRPCInferenceService`: the Open Inference Protocol, as Triton's clients speak it.

A call that has no method here answers UNIMPLEMENTED; Triton's further extensions belong below `ModelInfer`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from lazyneuron import __version__
from lazyneuron.engine.artifact import Axes, InputSpec, OutputSpec
from lazyneuron.engine.errors import InputError, ModelNotFoundError
from lazyneuron.engine.model import Model
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from lazyneuron.server.scheduler import Answer
from lazyneuron.server.services.context import deadline_of
from lazyneuron.server.serving import Inputs, Serving
from lazyneuron.server.tensors import Array, datatype_of, decode, decode_bytes, decode_text, decode_typed, encode

__all__ = ["OpenInferenceService"]

_PLATFORM = "onnxruntime_onnx"  # Triton's name for an ONNX model, which its clients know
_EXTENSIONS = ("model_repository(index)",)
_BYTES: dict[str, Callable[..., str | bytes]] = {"text": decode_text, "image": decode_bytes}
"""The one BYTES input that a model with a tokenizer, or an image preprocessor, takes instead of its tensors."""
_REFUSED_PARAMETERS = ("shared_memory_region", "classification")

Context = grpc.aio.ServicerContext[Any, Any]


class OpenInferenceService(GRPCInferenceServiceServicer):
    """The Open Inference Protocol over the loaded models.

    Parameters
    ----------
    serving
        The models.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802, ARG002
        """Tell that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802, ARG002
        """Tell whether requests are taken."""
        return pb.ServerReadyResponse(ready=self._serving.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802, ARG002
        """Tell whether a model takes requests; one that is not there does not."""
        try:
            self._serving.find(request.name, _version(request.version))
        except ModelNotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._serving.ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:  # noqa: N802, ARG002
        """Name the server and the protocol's extensions that it has."""
        return pb.ServerMetadataResponse(name="lazyneuron", version=__version__, extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802, ARG002
        """Describe a model's inputs and outputs."""
        model = self._serving.find(request.name, _version(request.version)).model
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[str(model.version)],
            platform=_PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in model.manifest.inputs],
            outputs=[_tensor_metadata(spec) for spec in model.manifest.outputs],
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Run one model on one request."""
        served = self._serving.find(request.model_name, _version(request.model_version))
        names = _requested_outputs(request, served.model)
        answer = await self._serving.predict(
            served,
            lambda: _inputs(request),
            size=request.ByteSize(),
            image=any(t.name == "image" and t.datatype == "BYTES" for t in request.inputs),
            budget=_budget(request.parameters),
            deadline=deadline_of(context),
        )
        return _response(request, served.model, answer, names)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:  # noqa: N802, ARG002
        """List the models, with the reason for each that is not served."""
        entry = pb.RepositoryIndexResponse.ModelIndex
        repository = self._serving.repository
        models = [entry(name=m.name, version=str(m.version), state="READY") for m in repository.models.values()]
        if not request.ready:
            models += [entry(name=n, state="UNAVAILABLE", reason=why) for n, why in repository.broken.items()]
        return pb.RepositoryIndexResponse(models=models)


def _version(text: str) -> int | None:
    """Return a version as a number; the empty string is any."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError("model_version", got=repr(text[:40]), expected="a positive integer, or nothing")
    return int(text)


def _tensor_metadata(spec: InputSpec | OutputSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype_of(spec.dtype), shape=_wire_shape(spec.shape)
    )


def _wire_shape(axes: Axes) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in axes]


def _inputs(request: pb.ModelInferRequest) -> Inputs:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            "raw_input_contents", got=f"{len(raw)} entries", expected=f"{len(request.inputs)}, one an input"
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        name, contents = tensor.name, raw[index] if raw else None
        _check_parameters(f"input {name[:80]!r}", tensor.parameters)
        if contents is not None and tensor.contents.ListFields():
            raise InputError(f"input {name[:80]!r}", got="both raw and typed contents", expected="one of them")
        if name in arrays:
            raise InputError(f"input {name[:80]!r}", got="it twice", expected="each input once")
        if tensor.datatype == "BYTES":
            return _content(request, tensor, contents)
        arrays[name] = (
            decode_typed(name, tensor.datatype, tensor.shape, tensor.contents)
            if contents is None
            else decode(name, tensor.datatype, tensor.shape, contents)
        )
    return arrays


def _content(
    request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, contents: bytes | None
) -> str | bytes:
    if tensor.name not in _BYTES or len(request.inputs) != 1:
        expected = f"numeric tensors, or one BYTES input named {' or '.join(map(repr, _BYTES))} and nothing else"
        raise InputError(f"input {tensor.name[:80]!r}", got="datatype BYTES", expected=expected)
    return _BYTES[tensor.name](tensor.name, tensor.shape, contents, tensor.contents)


def _check_parameters(where: str, parameters: Mapping[str, pb.InferParameter]) -> None:
    """Refuse parameters that would change the answer if they were obeyed; others are hints."""
    for name in _REFUSED_PARAMETERS:
        if name in parameters:
            raise InputError(where, got=f"the parameter {name}", expected="contents in the message and plain outputs")


def _budget(parameters: Mapping[str, pb.InferParameter]) -> float:
    if "budget" not in parameters:
        return 1.0
    kind = parameters["budget"].WhichOneof("parameter_choice")
    if kind not in {"double_param", "int64_param", "uint64_param", "string_param"}:
        raise InputError("parameters.budget", got=str(kind), expected="a number, or one as a string")
    value = getattr(parameters["budget"], kind)
    try:
        return float(value)
    except ValueError:
        expected = "a number greater than 0 and at most 1"
        raise InputError("parameters.budget", got=repr(value[:40]), expected=expected) from None


def _requested_outputs(request: pb.ModelInferRequest, model: Model) -> list[str]:
    there = [spec.name for spec in model.manifest.outputs]
    for output in request.outputs:
        if output.name not in there:
            raise InputError("outputs", got=repr(output.name[:80]), expected=f"some of {there}")
        _check_parameters(f"output {output.name!r}", output.parameters)
    return list(dict.fromkeys(output.name for output in request.outputs)) or there


def _response(request: pb.ModelInferRequest, model: Model, answer: Answer, names: list[str]) -> pb.ModelInferResponse:
    sparsity = answer.prediction.sparsity
    response = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    response.parameters["density"].double_param = sparsity.density
    response.parameters["flops_dense"].int64_param = sparsity.flops_dense
    response.parameters["flops_executed"].int64_param = sparsity.flops_executed
    for name in names:
        datatype, shape, data = encode(answer.prediction.outputs[name])
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(data)
    return response
