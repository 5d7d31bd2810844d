"""Requests and answers of the Open Inference Protocol, as bytes and arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.tensors import DATATYPES, decode, encode

__all__ = ["message", "output"]

Array = np.ndarray[Any, Any]


def message(name: str, inputs: Mapping[str, Array]) -> bytes:
    """Return a serialised ModelInfer request."""
    request = pb.ModelInferRequest(model_name=name)
    for key, value in inputs.items():
        datatype, shape, data = encode(value)
        request.inputs.add(name=key, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    return request.SerializeToString()


def output(answer: pb.ModelInferResponse) -> Array:
    """Return the answer's first output, however its elements are sent."""
    first = answer.outputs[0]
    if answer.raw_output_contents:
        return decode(first.name, first.datatype, first.shape, answer.raw_output_contents[0])
    return np.array(first.contents.fp32_contents, DATATYPES[first.datatype]).reshape(first.shape)
