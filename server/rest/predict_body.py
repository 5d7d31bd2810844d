"""`/v1/models/NAME:predict`: what its JSON says, to and from our own service's messages."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.errors import InputError
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.answers import answer_document, read_answer
from lazyneuron.server.rest.bodies import parse_json
from lazyneuron.server.rest.json_tensors import flatten, tensor_bytes
from lazyneuron.server.tensors import datatype_of, decode

__all__ = ["read_predict", "write_prediction"]

_KEYS = ("instances", "text", "top", "budget", "outputs", "timeout_seconds")
_INSTANCE = 'a text, {"text": …}, {"image": {"b64": …}} or {input: value, …}'


def read_predict(manifest: Manifest, json: bytes, max_instances: int) -> list[pb.PredictRequest]:
    """Return the requests in a body, one for each instance.

    Parameters
    ----------
    manifest
        The model's: it tells what an instance's tensors are.
    json
        The body.
    max_instances
        The most instances that are taken.

    Raises
    ------
    InputError
        Naming the field, what was got and what was expected.
    """
    document = parse_json(json)
    if unknown := [key for key in document if key not in _KEYS]:
        raise InputError(f"body.{unknown[0][:80]}", got="it", expected=f"one of {', '.join(_KEYS)}")
    instances = _instances(document)
    if not 0 < len(instances) <= max_instances:
        raise InputError("instances", got=str(len(instances)), expected=f"1 to {max_instances} of them")
    common = _common(manifest, document)
    requests = []
    for index, instance in enumerate(instances):
        request = pb.PredictRequest()
        request.CopyFrom(common)
        _read_instance(manifest, request, instance, f"instances[{index}]")
        requests.append(request)
    return requests


def write_prediction(response: pb.PredictResponse) -> dict[str, Any]:
    """Return one instance's prediction as JSON has it."""
    answers = [answer for message in response.answers if (answer := read_answer(message)) is not None]
    prediction: dict[str, Any] = {}
    if answers:
        prediction = {"labels": list(answers[0].labels), "answer": answer_document(answers[0])}
    if response.outputs:
        prediction["outputs"] = {t.name: _first_example(t) for t in response.outputs}
    sparsity = response.sparsity
    return prediction | {
        "density": sparsity.density,
        "flops_dense": sparsity.flops_dense,
        "flops_executed": sparsity.flops_executed,
    }


def _instances(document: Mapping[str, Any]) -> list[Any]:
    if ("instances" in document) == ("text" in document):
        raise InputError("body", got="instances and text" if "text" in document else "neither", expected="one of them")
    instances = document["instances"] if "instances" in document else [document["text"]]
    if not isinstance(instances, list):
        raise InputError("instances", got=type(instances).__name__, expected="a list")
    return instances


def _common(manifest: Manifest, document: Mapping[str, Any]) -> pb.PredictRequest:
    """Return what all instances share."""
    request = pb.PredictRequest(model_name=manifest.name, model_version=manifest.version)
    outputs = document.get("outputs", False)
    if not isinstance(outputs, bool):
        raise InputError("outputs", got=type(outputs).__name__, expected="true or false")
    request.omit_outputs = not outputs
    if "top" in document:
        top = document["top"]
        if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top < 2**32:
            raise InputError("top", got=repr(top)[:40], expected="a whole number, at least 0")
        request.top = top
    for name in ("budget", "timeout_seconds"):
        if name in document:
            setattr(request, name, _number(document[name], name))
    return request


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(field, got=repr(value)[:40], expected="a number")
    return float(value)


def _read_instance(manifest: Manifest, request: pb.PredictRequest, instance: object, where: str) -> None:
    match instance:
        case str() as text:
            request.text = text
        case {"text": str() as text, **rest} if not rest:
            request.text = text
        case {"image": {"b64": str() as encoded, **more}, **rest} if not rest and not more:
            request.image = _decoded(encoded, where)
        case dict() if instance and set(instance) <= {spec.name for spec in manifest.inputs}:
            for spec in manifest.inputs:
                if spec.name in instance:
                    field = f"{where}.{spec.name}"
                    flat, shape = flatten(field, [instance[spec.name]])  # an instance is a batch of one
                    datatype = datatype_of(spec.dtype)
                    data = tensor_bytes(field, datatype, flat) if spec.dtype != "float16" else _halves(field, flat)
                    request.inputs.tensors.add(name=spec.name, datatype=datatype, shape=shape, data=data)
        case _:
            names = ", ".join(spec.name for spec in manifest.inputs)
            got = (
                f"the keys {sorted(map(str, instance))[:5]}" if isinstance(instance, dict) else type(instance).__name__
            )
            raise InputError(where, got=got, expected=f"{_INSTANCE}; the model's inputs are {names}")


def _halves(field: str, flat: list[Any]) -> bytes:
    """Return numbers as float16: this form is ours, and takes what the protocol's has no form for."""
    wide = np.frombuffer(tensor_bytes(field, "FP32", flat), "<f4")
    with np.errstate(over="ignore"):
        return wide.astype("<f2").tobytes()


def _decoded(encoded: str, where: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        got = f"text that is not base64 ({error})"
        raise InputError(f"{where}.image.b64", got=got, expected="a file's bytes in base64") from None


def _first_example(tensor: pb.Tensor) -> Any:  # noqa: ANN401  nested lists
    array = decode(tensor.name, tensor.datatype, tensor.shape, tensor.data)
    return (array[0] if array.ndim else array).tolist()
