"""Between JSON's nested lists and tensors' bytes.

NumPy would take a list of anything: text for numbers, and one long string would make an array of as many bytes for each
element. So lists are flattened here, and only numbers and booleans reach it.
"""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lazyneuron.engine.errors import InputError
from lazyneuron.server.tensors import DATATYPES, encode_strings

__all__ = ["NO_JSON", "dump_array", "flatten", "tensor_bytes"]

NO_JSON = ("FP16", "BF16")
"""Datatypes that have no JSON form in the protocol."""
_MAX_RANK = 16
_SLICE = 65_536  # elements that are written at once: between slices, other threads run


def flatten(field: str, data: object) -> tuple[list[Any], list[int]]:
    """Return nested lists' elements in row-major order, and the lists' shape.

    Raises
    ------
    InputError
        If sublists differ in length, or lists and elements are mixed.
    """
    shape: list[int] = []
    flat: list[Any] = [data]
    while flat and isinstance(flat[0], list):
        length = len(flat[0])
        if len(shape) == _MAX_RANK:
            raise InputError(field, got="lists nested deeper", expected=f"at most {_MAX_RANK} deep")
        if not all(isinstance(part, list) and len(part) == length for part in flat):
            raise InputError(field, got="lists of unlike lengths, or lists beside numbers", expected="a whole tensor")
        shape.append(length)
        flat = list(chain.from_iterable(flat))
    return flat, shape


def tensor_bytes(field: str, datatype: str, flat: list[Any]) -> bytes:
    """Return elements as a tensor's raw contents.

    Raises
    ------
    InputError
        If the datatype has no JSON form, or an element is not of its kind or range.
    """
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in flat):
            raise InputError(field, got="elements that are not strings", expected="strings, for datatype BYTES")
        return encode_strings(value.encode() for value in flat)
    if datatype in NO_JSON or datatype not in DATATYPES:
        expected = f"binary data, for datatype {datatype}" if datatype in NO_JSON else f"one of {', '.join(DATATYPES)}"
        raise InputError(field, got=f"datatype {datatype[:40]!r} in JSON", expected=expected)
    return _numbers(field, datatype, flat).tobytes()


def dump_array(contents: bytes, datatype: str) -> bytes:
    """Return a tensor's raw contents as a JSON array, flat and in row-major order; what is not finite becomes null."""
    values: NDArray[np.generic] = np.frombuffer(contents, DATATYPES[datatype])
    slices = [
        orjson.dumps(values[start : start + _SLICE], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        for start in range(0, len(values), _SLICE)
    ]
    return b"[" + b",".join(slices) + b"]"


def _numbers(field: str, datatype: str, flat: Sequence[Any]) -> NDArray[np.generic]:
    dtype = DATATYPES[datatype]
    if dtype.kind == "b":
        if not all(isinstance(value, bool) for value in flat):
            raise InputError(field, got="elements that are not true or false", expected=f"datatype {datatype}")
        return np.array(flat, dtype)
    code = "d" if dtype.kind == "f" else "Q" if datatype == "UINT64" else "q"
    try:
        wide = np.frombuffer(array(code, flat), code)
    except (TypeError, OverflowError) as error:
        raise InputError(field, got=f"elements that are not {datatype} ({error})", expected=datatype) from None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused as that
            return wide.astype(dtype)
    bounds = np.iinfo(dtype.name)
    if len(wide) and (wide.min() < bounds.min or wide.max() > bounds.max):
        got = f"values from {wide.min()} to {wide.max()}"
        raise InputError(field, got=got, expected=f"{bounds.min} to {bounds.max}, for {datatype}")
    return wide.astype(dtype)
