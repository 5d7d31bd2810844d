"""`ModelInfer` without a transport: a checked request in, a response out. gRPC, its stream and HTTP all come here."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from lazyneuron.engine.errors import InputError
from lazyneuron.engine.model import Model
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.scheduler import Answer
from lazyneuron.server.services.classification import classified
from lazyneuron.server.serving import Inputs, Serving
from lazyneuron.server.tensors import (
    Array,
    datatype_of,
    decode,
    decode_bytes,
    decode_text,
    decode_typed,
    encode,
    encode_strings,
)

__all__ = [
    "Parameters",
    "budget_of",
    "check_number",
    "deadline_from",
    "infer",
    "parameter_of",
    "quality_of",
    "version_of",
]

Parameters = Mapping[str, pb.InferParameter]

_BYTES: dict[str, Callable[..., str | bytes]] = {"text": decode_text, "image": decode_bytes}
"""The one BYTES input that a model with a tokenizer, or an image preprocessor, takes instead of its tensors."""
_SHARED_MEMORY = "shared_memory_region"
_MICROSECONDS = 1e6
_MOST_CLASSES = 65536
_MOST_ITEMS = 1024  # inputs, outputs, parameters: no model has as many, and each costs the event loop some time
_MANY_ELEMENTS = 16384  # from here on, sorting them is left to a thread
_NUMBERS = ("double_param", "int64_param", "uint64_param", "string_param")


async def infer(serving: Serving, request: pb.ModelInferRequest, deadline: float | None) -> pb.ModelInferResponse:
    """Run one model on one request.

    Parameters
    ----------
    serving
        The models.
    request
        As it came; nothing in it is trusted.
    deadline
        The transport's, on the clock of `time.monotonic`. The request's own parameter `timeout` (microseconds, as
        Triton's clients send it; 0: none) may bring it forward.

    Raises
    ------
    LazyneuronError
        As `Serving.predict`; InputError names the field, what was got and what was expected.
    """
    for field, items in (("inputs", request.inputs), ("outputs", request.outputs), ("parameters", request.parameters)):
        check_number(field, items)
    served = serving.find(request.model_name, version_of(request.model_version))
    outputs = _requested_outputs(request, served.model)
    answer = await serving.predict(
        served,
        lambda: _inputs(request, served.model),
        size=request.ByteSize(),
        image=any(t.name == "image" and t.datatype == "BYTES" for t in request.inputs),
        budget=budget_of(request.parameters),
        quality=quality_of(request.parameters),
        deadline=deadline_from(request.parameters, deadline),
    )
    if any(outputs.values()) and _elements(answer) >= _MANY_ELEMENTS:
        return await asyncio.to_thread(_response, request, served.model, answer, outputs)
    return _response(request, served.model, answer, outputs)


def check_number(field: str, items: Sized) -> None:
    """Refuse more items than any request has a use for.

    Raises
    ------
    InputError
        If there are more.
    """
    if len(items) > _MOST_ITEMS:
        raise InputError(field, got=f"{len(items)} of them", expected=f"at most {_MOST_ITEMS}")


def version_of(text: str) -> int | None:
    """Return a version as a number; the empty string is any.

    Raises
    ------
    InputError
        If it is no number.
    """
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError("model_version", got=repr(text[:40]), expected="a positive integer, or nothing")
    return int(text)


def quality_of(parameters: Parameters) -> str:
    """Return the parameter `quality`, a class's name; empty where there is none.

    Raises
    ------
    InputError
        If it is no string.
    """
    if "quality" not in parameters:
        return ""
    kind = parameters["quality"].WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InputError("parameters.quality", got=str(kind), expected="a class's name, as a string")
    return parameters["quality"].string_param


def budget_of(parameters: Parameters) -> float | None:
    """Return the parameter `budget`, a share of the exported k; None where there is none.

    Raises
    ------
    InputError
        If it is no number.
    """
    return _number(parameters, "budget", "a number greater than 0 and at most 1")


def deadline_from(parameters: Parameters, deadline: float | None) -> float | None:
    """Return the earlier of the transport's deadline and the parameter `timeout`'s.

    Raises
    ------
    InputError
        If `timeout` is not a number of microseconds.
    """
    expected = "microseconds, or 0 for none"
    timeout = _number(parameters, "timeout", expected)
    if not timeout:
        return deadline
    if not 0 < timeout < math.inf:
        raise InputError("parameters.timeout", got=str(timeout), expected=expected)
    own = time.monotonic() + timeout / _MICROSECONDS
    return own if deadline is None else min(own, deadline)


def parameter_of(parameter: Any) -> Any:  # noqa: ANN401  the protocol's three kinds of parameters look alike
    """Return a parameter's value; None if none is set."""
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _number(parameters: Parameters, name: str, expected: str) -> float | None:
    if name not in parameters:
        return None
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in _NUMBERS:
        raise InputError(f"parameters.{name}", got=str(kind), expected=f"{expected} (or it as a string)")
    value = getattr(parameters[name], kind)
    try:
        return float(value)
    except ValueError:
        raise InputError(f"parameters.{name}", got=repr(value[:40]), expected=expected) from None


def _inputs(request: pb.ModelInferRequest, model: Model) -> Inputs:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            "raw_input_contents", got=f"{len(raw)} entries", expected=f"{len(request.inputs)}, one an input"
        )
    datatypes = {spec.name: datatype_of(spec.dtype) for spec in model.manifest.inputs}
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        name, contents = tensor.name, raw[index] if raw else None
        _refuse_shared_memory(f"input {name[:80]!r}", tensor.parameters)
        if contents is not None and tensor.contents.ListFields():
            raise InputError(f"input {name[:80]!r}", got="both raw and typed contents", expected="one of them")
        if name in arrays:
            raise InputError(f"input {name[:80]!r}", got="it twice", expected="each input once")
        if tensor.datatype == "BYTES":
            return _content(request, tensor, contents)
        if tensor.datatype != datatypes.get(name, tensor.datatype):
            # As Triton: nothing is converted, since a client that sends another type has another model in mind.
            raise InputError(
                f"input {name!r}", got=f"datatype {tensor.datatype[:40]}", expected=f"{datatypes[name]}, the model's"
            )
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


def _refuse_shared_memory(where: str, parameters: Parameters) -> None:
    """Refuse a tensor that is not in the message; parameters that are not known are hints."""
    if _SHARED_MEMORY in parameters:
        raise InputError(where, got=f"the parameter {_SHARED_MEMORY}", expected="contents in the message")


def _requested_outputs(request: pb.ModelInferRequest, model: Model) -> dict[str, int]:
    """Return the outputs to send by name, each with the number of classes that are asked for; 0: the tensor itself."""
    there = [spec.name for spec in model.manifest.outputs]
    wanted: dict[str, int] = {}
    for output in request.outputs:
        if output.name not in there:
            raise InputError("outputs", got=repr(output.name[:80]), expected=f"some of {there}")
        _refuse_shared_memory(f"output {output.name!r}", output.parameters)
        wanted[output.name] = _classes(output)
    return wanted or dict.fromkeys(there, 0)


def _classes(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    if "classification" not in output.parameters:
        return 0
    parameter = output.parameters["classification"]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or not 0 <= value <= _MOST_CLASSES:
        got = str(kind) if value is None else str(value)
        raise InputError(
            f"output {output.name!r}: classification", got=got, expected=f"a whole number, at most {_MOST_CLASSES}"
        )
    return int(value)


def _elements(answer: Answer) -> int:
    return sum(array.size for array in answer.prediction.outputs.values())


def _response(
    request: pb.ModelInferRequest, model: Model, answer: Answer, outputs: Mapping[str, int]
) -> pb.ModelInferResponse:
    sparsity = answer.prediction.sparsity
    response = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    response.parameters["density"].double_param = sparsity.density
    response.parameters["flops_dense"].int64_param = sparsity.flops_dense
    response.parameters["flops_executed"].int64_param = sparsity.flops_executed
    response.parameters["budget"].double_param = answer.budget
    for name, classes in outputs.items():
        datatype, shape, data = _contents(model, answer.prediction.outputs[name], classes)
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(data)
    return response


def _contents(model: Model, array: Array, classes: int) -> tuple[str, Sequence[int], bytes]:
    if not classes:
        return encode(array)
    shape, names = classified(array, classes, model.manifest.labels, batched=model.manifest.batchable)
    return "BYTES", shape, encode_strings(names)
