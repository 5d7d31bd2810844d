"""Between the wire's tensors and NumPy's. Nothing from the wire is trusted: names, types, shapes and sizes are checked.

Datatypes are the Open Inference Protocol's; our own service uses the same names.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.errors import InputError
from lazyneuron.protocol.open_inference_pb2 import InferTensorContents

__all__ = [
    "DATATYPES",
    "Array",
    "datatype_of",
    "decode",
    "decode_bytes",
    "decode_strings",
    "decode_text",
    "decode_typed",
    "encode",
    "encode_strings",
]

Array = NDArray[np.generic]

# Little-endian on the wire, whatever the machine's own order is.
DATATYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

# The field of InferTensorContents that a datatype's elements are in. FP16 has none.
_TYPED_FIELD = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NARROWED = ("int_contents", "uint_contents")  # 32 bits on the wire for 8 and 16 too
_MAX_RANK = 16
_MOST_ELEMENTS = 2**40
_LENGTH_BYTES = 4


@functools.cache
def datatype_of(dtype: np.dtype[np.generic] | str) -> str:
    """Return the wire's name of a NumPy dtype.

    Raises
    ------
    KeyError
        If the protocol has none.
    """
    return _NAMES[np.dtype(dtype).newbyteorder("<")]


def decode(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Array:
    """Return the array in `data`: row-major, little-endian, unpadded. It is read-only and shares the bytes.

    Raises
    ------
    InputError
        Naming the tensor, if the datatype is not one of `DATATYPES`, or shape and size do not agree.
    """
    dtype = _dtype(name, datatype)
    count = _count(name, shape)
    if count * dtype.itemsize != len(data):
        expected = f"{count * dtype.itemsize} ({datatype} of shape {list(shape)})"
        raise InputError(_field(name), got=f"{len(data)} bytes of contents", expected=expected)
    if datatype == "BOOL":  # any non-zero byte is true; as a bool's bits it would be neither
        array: Array = np.frombuffer(data, np.uint8) != 0
        return array.reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape)


def decode_typed(name: str, datatype: str, shape: Sequence[int], contents: InferTensorContents) -> Array:
    """Return the array in the typed field of `contents` that belongs to `datatype`.

    Raises
    ------
    InputError
        As `decode`; or if another field is filled, or a value does not fit the datatype.
    """
    dtype = _dtype(name, datatype)
    count = _count(name, shape)
    field = _check_field(name, datatype, contents)
    values = getattr(contents, field)
    if len(values) != count:
        raise InputError(
            _field(name), got=f"{len(values)} values in {field}", expected=f"{count} (shape {list(shape)})"
        )
    array = np.array(values)  # the field's own width
    if field in _NARROWED and count:
        bounds, low, high = np.iinfo(dtype.name), array.min(), array.max()
        if low < bounds.min or high > bounds.max:
            raise InputError(_field(name), got=f"values from {low} to {high}", expected=f"{bounds.min} to {bounds.max}")
    return array.astype(dtype, copy=False).reshape(shape)


def decode_text(name: str, shape: Sequence[int], raw: bytes | None, contents: InferTensorContents) -> str:
    """Return the one string of a BYTES tensor.

    Raises
    ------
    InputError
        If it is not one string of UTF-8.
    """
    return _utf8(name, decode_bytes(name, shape, raw, contents))


def decode_bytes(name: str, shape: Sequence[int], raw: bytes | None, contents: InferTensorContents) -> bytes:
    """Return the one element of a BYTES tensor (raw: a 4-byte little-endian length, then that many bytes).

    Raises
    ------
    InputError
        If it is not one element.
    """
    if _count(name, shape) != 1:
        expected = "one string (shape [1]); send each in a request of its own, the server batches them"
        raise InputError(_field(name), got=f"shape {list(shape)}", expected=expected)
    if raw is None:
        field = _check_field(name, "BYTES", contents)
        strings = list(getattr(contents, field))
        if len(strings) != 1:
            raise InputError(_field(name), got=f"{len(strings)} strings in {field}", expected="1")
        return bytes(strings[0])
    length = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    if len(raw) < _LENGTH_BYTES or len(raw) != _LENGTH_BYTES + length:
        raise InputError(
            _field(name), got=f"{len(raw)} bytes of contents", expected="a 4-byte length and that many bytes"
        )
    return raw[_LENGTH_BYTES:]


def encode(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    """Return the datatype, shape and contents of an array."""
    datatype = datatype_of(array.dtype)
    return datatype, array.shape, array.astype(DATATYPES[datatype], copy=False).tobytes()


def encode_strings(strings: Iterable[bytes]) -> bytes:
    """Return the contents of a BYTES tensor: each string a 4-byte little-endian length, then itself."""
    return b"".join(len(value).to_bytes(_LENGTH_BYTES, "little") + value for value in strings)


def decode_strings(data: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor that `encode_strings` wrote."""
    values, at = [], 0
    while at < len(data):
        end = at + _LENGTH_BYTES + int.from_bytes(data[at : at + _LENGTH_BYTES], "little")
        values.append(data[at + _LENGTH_BYTES : end])
        at = end
    return values


def _field(name: str) -> str:
    return f"input {name[:80]!r}"


def _dtype(name: str, datatype: str) -> np.dtype[np.generic]:
    if datatype not in DATATYPES:
        raise InputError(_field(name), got=f"datatype {datatype[:40]!r}", expected=f"one of {', '.join(DATATYPES)}")
    return DATATYPES[datatype]


def _count(name: str, shape: Sequence[int]) -> int:
    """Return how many elements a shape has. Python's integers do not overflow."""
    if len(shape) > _MAX_RANK:
        raise InputError(_field(name), got=f"rank {len(shape)}", expected=f"at most {_MAX_RANK}")
    if any(size < 0 for size in shape):
        raise InputError(_field(name), got=f"shape {list(shape)}", expected="no negative length")
    count = math.prod(shape)
    if count == 0 and math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:  # NumPy refuses it though it is empty
        raise InputError(_field(name), got=f"shape {list(shape)}", expected="no lengths as large beside one of 0")
    return count


def _check_field(name: str, datatype: str, contents: InferTensorContents) -> str:
    """Return the typed field of a datatype, and refuse contents in any other."""
    field = _TYPED_FIELD.get(datatype)
    if field is None:
        raise InputError(_field(name), got=f"typed contents of {datatype}", expected="raw_input_contents")
    if others := [d.name for d, _ in contents.ListFields() if d.name != field]:
        raise InputError(_field(name), got=f"{others[0]} for datatype {datatype}", expected=field)
    return field


def _utf8(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(_field(name), got=f"bytes that are not UTF-8 ({error.reason})", expected="UTF-8") from None
