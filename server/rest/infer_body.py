"""`infer` over HTTP: JSON with binary data after it, to and from the messages that gRPC has.

The JSON is KServe's v2 REST form; binary data, `binary_data` and `classification` are Triton's extensions of it. What
may be absent may be null, as clients that have a schema for requests write it.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from lazyneuron.engine.errors import InputError
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.rest.bodies import parse_json
from lazyneuron.server.rest.json_tensors import NO_JSON, dump_array, flatten, tensor_bytes
from lazyneuron.server.services.infer import check_number, parameter_of
from lazyneuron.server.tensors import decode_strings

__all__ = ["InferBody", "read_infer", "write_infer"]

_INT64 = 2**63


class InferBody:
    """A request as it came over HTTP.

    Attributes
    ----------
    message
        The request, every tensor's contents raw.
    binary
        For each output that was asked for by name, whether it is wanted as binary data.
    binary_default
        Whether the others are.
    """

    def __init__(self, message: pb.ModelInferRequest) -> None:
        self.message = message
        self.binary: dict[str, bool] = {}
        self.binary_default = False


def read_infer(name: str, version: str, json: bytes, binary: memoryview) -> InferBody:
    """Return the request in a body.

    Parameters
    ----------
    name, version
        The model, from the path.
    json
        The JSON.
    binary
        What follows it.

    Raises
    ------
    InputError
        Naming the field, what was got and what was expected.
    """
    document = parse_json(json)
    body = InferBody(pb.ModelInferRequest(model_name=name, model_version=version, id=_text(document, "id", "id", "")))
    parameters = _object(document, "parameters", "parameters")
    body.binary_default = _flag(parameters, "binary_data_output", "parameters")
    _fill(body.message.parameters, parameters, "parameters")
    at = 0
    for index, item in enumerate(_list(document, "inputs", "inputs")):
        at = _read_input(body.message, item, f"inputs[{index}]", binary, at)
    if at != len(binary):
        raise InputError("body", got=f"{len(binary)} bytes of binary data", expected=f"{at}, the inputs' sizes")
    for index, item in enumerate(_list(document, "outputs", "outputs") if document.get("outputs") is not None else []):
        _read_output(body, item, f"outputs[{index}]")
    return body


def write_infer(body: InferBody, response: pb.ModelInferResponse) -> tuple[bytes, int | None]:
    """Return the answer's body, and how much of it is JSON if binary data follows (else None).

    Raises
    ------
    InputError
        If an output has no JSON form and was not asked for as binary data.
    """
    head: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        head["id"] = response.id
    head["parameters"] = {name: parameter_of(value) for name, value in response.parameters.items()}
    outputs: list[bytes] = []
    binary: list[bytes] = []
    for output, contents in zip(response.outputs, response.raw_output_contents, strict=True):
        about: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if body.binary.get(output.name, body.binary_default):
            about["parameters"] = {"binary_data_size": len(contents)}
            binary.append(contents)
            outputs.append(orjson.dumps(about))
        else:
            outputs.append(
                orjson.dumps(about)[:-1] + b',"data":' + _data(output.name, output.datatype, contents) + b"}"
            )
    json = orjson.dumps(head)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    return (b"".join([json, *binary]), len(json)) if binary else (json, None)


def _data(name: str, datatype: str, contents: bytes) -> bytes:
    if datatype == "BYTES":
        return orjson.dumps([value.decode(errors="replace") for value in decode_strings(contents)])
    if datatype in NO_JSON:
        expected = "binary_data true for it: the protocol has no JSON form"
        raise InputError(f"output {name!r}", got=f"datatype {datatype} in JSON", expected=expected)
    return dump_array(contents, datatype)


def _read_input(message: pb.ModelInferRequest, item: object, where: str, binary: memoryview, at: int) -> int:
    """Add one input to the message; return where the next one's binary data begins."""
    if not isinstance(item, dict):
        raise InputError(where, got=type(item).__name__, expected="an object with name, shape, datatype and data")
    name, datatype = _text(item, "name", f"{where}.name"), _text(item, "datatype", f"{where}.datatype")
    shape = [_int64(length, f"{where}.shape") for length in _list(item, "shape", f"{where}.shape")]
    parameters = _object(item, "parameters", f"{where}.parameters")
    tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
    _fill(tensor.parameters, parameters, f"{where}.parameters")
    if "binary_data_size" in parameters:
        size = _int64(parameters["binary_data_size"], f"{where}.parameters.binary_data_size")
        if "data" in item:
            raise InputError(where, got="both data and binary_data_size", expected="one of them")
        if not 0 <= size <= len(binary) - at:
            expected = f"at most the {len(binary) - at} that are left of the body"
            raise InputError(f"{where}.parameters.binary_data_size", got=str(size), expected=expected)
        message.raw_input_contents.append(bytes(binary[at : at + size]))
        return at + size
    if "data" not in item and "shared_memory_region" not in parameters:  # which is refused by its name, later
        raise InputError(where, got="neither data nor binary_data_size", expected="one of them")
    flat, _ = flatten(f"{where}.data", item.get("data", []))
    message.raw_input_contents.append(tensor_bytes(f"{where}.data", datatype, flat))
    return at


def _read_output(body: InferBody, item: object, where: str) -> None:
    if not isinstance(item, dict):
        raise InputError(where, got=type(item).__name__, expected="an object with a name")
    name = _text(item, "name", f"{where}.name")
    parameters = _object(item, "parameters", f"{where}.parameters")
    if "binary_data" in parameters:
        body.binary[name] = _flag(parameters, "binary_data", f"{where}.parameters")
    output = body.message.outputs.add(name=name)
    _fill(output.parameters, parameters, f"{where}.parameters")


def _fill(target: Any, parameters: Mapping[str, Any], where: str) -> None:  # noqa: ANN401  a protobuf map
    for name, value in parameters.items():
        field = f"{where}.{name[:80]}"
        match value:
            case bool():
                target[name].bool_param = value
            case int() if value < _INT64:
                target[name].int64_param = value
            case int():
                target[name].uint64_param = value  # JSON's parser takes no more than 64 bits
            case float():
                target[name].double_param = value
            case str():
                target[name].string_param = value
            case _:
                raise InputError(field, got=type(value).__name__, expected="a boolean, a number or a string")


def _text(item: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = default if item.get(key) is None else item[key]
    if not isinstance(value, str):
        raise InputError(where, got=_got(item, key), expected="a string")
    return value


def _list(item: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = item.get(key)
    if not isinstance(value, list):
        raise InputError(where, got=_got(item, key), expected="a list")
    check_number(where, value)
    return value


def _object(item: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = {} if item.get(key) is None else item[key]
    if not isinstance(value, dict):
        raise InputError(where, got=_got(item, key), expected="an object")
    check_number(where, value)
    return value


def _flag(item: Mapping[str, Any], key: str, where: str) -> bool:
    value = item.get(key, False)
    if not isinstance(value, bool):
        raise InputError(f"{where}.{key}", got=_got(item, key), expected="true or false")
    return value


def _int64(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT64 <= value < _INT64:
        raise InputError(where, got=repr(value)[:40], expected="a whole number")
    return value


def _got(item: Mapping[str, Any], key: str) -> str:
    return type(item[key]).__name__ if key in item else "nothing"
