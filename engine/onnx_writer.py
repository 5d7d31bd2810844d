"""Small ONNX models as bytes, without the `onnx` package, which a serving install does not have.

Written are the fields that a graph of a few nodes with constant weights needs, by their numbers in onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) and protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/).
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOAT16", "FLOAT32", "Array", "Bfloat16", "Node", "as_bfloat16", "write_model"]

Array = NDArray[np.generic]

_IR_VERSION = 10
_OPSETS = (("", 20), ("lazyneuron", 1))
FLOAT32, FLOAT16 = 1, 10
"""What a Cast's attribute `to` takes."""
_ELEMENT_TYPES = {"float32": FLOAT32, "int8": 3, "int32": 6, "int64": 7, "float16": FLOAT16, "bfloat16": 16}
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _STRING_ATTRIBUTE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Bfloat16:
    """An array of bfloat16, which NumPy has no type for.

    Attributes
    ----------
    codes
        uint16, the upper halves of the float32 numbers.
    """

    codes: NDArray[np.uint16]

    @property
    def values(self) -> NDArray[np.float32]:
        """The numbers, float32."""
        return (self.codes.astype(np.uint32) << 16).view(np.float32)


def as_bfloat16(values: NDArray[np.float32]) -> Bfloat16:
    """Round finite float32 numbers to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return Bfloat16(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


@dataclass(frozen=True, slots=True)
class Node:
    """An operator's use in a graph; an empty name stands for an input that is left out."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    domain: str = ""
    attributes: Mapping[str, float | int | str] = field(default_factory=dict)


def write_model(
    nodes: Sequence[Node],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str]]],
    constants: Mapping[str, Array | Bfloat16],
) -> bytes:
    """Return a model of one graph.

    Parameters
    ----------
    nodes
        In an order in which they can run.
    inputs, outputs
        Each one's element type and axes; a text names an axis whose length is open.
    constants
        Weights, in row-major order.

    Raises
    ------
    ValueError
        If an element type is none that is written here.
    """
    graph = b"".join(_message(1, _node(node, i)) for i, node in enumerate(nodes)) + _text(2, "graph")
    graph += b"".join(_message(5, _tensor(name, array)) for name, array in constants.items())
    graph += b"".join(_message(11, _value(name, kind, shape)) for name, (kind, shape) in inputs.items())
    graph += b"".join(_message(12, _value(name, kind, shape)) for name, (kind, shape) in outputs.items())
    opsets = b"".join(_message(8, _text(1, domain) + _number(2, version)) for domain, version in _OPSETS)
    return _number(1, _IR_VERSION) + _text(2, "lazyneuron") + _message(7, graph) + opsets


def _node(node: Node, position: int) -> bytes:
    return (
        b"".join(_text(1, name) for name in node.inputs)
        + b"".join(_text(2, name) for name in node.outputs)
        + _text(3, f"{node.operator}_{position}")
        + _text(4, node.operator)
        + b"".join(_message(5, _attribute(name, value)) for name, value in node.attributes.items())
        + _text(7, node.domain)
    )


def _attribute(name: str, value: float | str) -> bytes:
    if isinstance(value, str):
        return _text(1, name) + _text(4, value) + _number(20, _STRING_ATTRIBUTE)
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT_ATTRIBUTE)
    return _text(1, name) + _key(2, _FIXED32) + struct.pack("<f", value) + _number(20, _FLOAT_ATTRIBUTE)


def _tensor(name: str, array: Array | Bfloat16) -> bytes:
    stored, kind = (array.codes, "bfloat16") if isinstance(array, Bfloat16) else (array, array.dtype.name)
    little = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    dims = b"".join(_number(1, size) for size in stored.shape)
    return dims + _number(2, _element_type(kind)) + _text(8, name) + _message(9, little.tobytes())


def _value(name: str, kind: str, shape: Sequence[int | str]) -> bytes:
    tensor = _number(1, _element_type(kind)) + _message(2, b"".join(_message(1, _axis(axis)) for axis in shape))
    return _text(1, name) + _message(2, _message(1, tensor))


def _axis(axis: int | str) -> bytes:
    return _text(2, axis) if isinstance(axis, str) else _number(1, axis)


def _element_type(kind: str) -> int:
    if kind not in _ELEMENT_TYPES:
        raise ValueError(f"element type {kind}; expected one of {', '.join(_ELEMENT_TYPES)}")
    return _ELEMENT_TYPES[kind]


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _varint(value & 0xFFFFFFFFFFFFFFFF)  # negative ones in two's complement


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    return bytes(_sevens(value))


def _sevens(value: int) -> Iterator[int]:
    """Give seven bits at a time, the lowest first; the eighth says that more follow."""
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
