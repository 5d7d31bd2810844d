"""Which files an ONNX model would have read besides itself: the `location`s of its external data.

They are found in the file's own bytes, before anything loads it, without the `onnx` package and without reading the
weights: protobuf's wire format (https://protobuf.dev/programming-guides/encoding) is walked along those fields of
`onnx.proto` that lead to a tensor, in graphs, subgraphs, functions and training graphs. What a parser might read in
another way than this one does (groups, tags of more than 32 bits) is refused.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lazyneuron.engine.confine import confined, plain_name
from lazyneuron.engine.errors import ArtifactError

__all__ = ["FIELDS", "check_listed", "check_within", "external_locations"]

FIELDS: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""Message by message the fields that lead on to external data; `TensorProto.external_data` is a list of keys with
values, of which `location` is one."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEY, _VALUE = 1, 2
_LONGEST_VARINT, _LONGEST_TAG = 10, 5
_DEEPEST = 100  # protobuf's own limit

_Buffer = bytes | mmap.mmap


def external_locations(path: Path) -> set[str]:
    """Return every `location` that an ONNX file names.

    Raises
    ------
    ArtifactError
        If the file is no protobuf message.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise ArtifactError(f"{path}: not a readable ONNX file: it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return set(_locations(data))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable ONNX file: {error}") from error


def check_listed(path: Path, listed: Iterable[str]) -> None:
    """Refuse an ONNX file whose external data is not in files of the given names, beside it.

    Raises
    ------
    ArtifactError
        Naming the location.
    """
    known = set(listed) - {path.name}
    for location in sorted(external_locations(path)):
        if not plain_name(location) or location not in known:
            expected = f"one of {sorted(known)}, which the manifest lists" if known else "none, as the manifest says"
            raise ArtifactError(f"{path}: its external data is in {location[:200]!r}; expected {expected}")


def check_within(path: Path) -> None:
    """Refuse an ONNX file whose external data is not in the file's own folder or one below it.

    Raises
    ------
    ArtifactError
        Naming the location.
    """
    for location in sorted(external_locations(path)):
        inner = Path(location)
        if not location or "\0" in location or "\\" in location or inner.is_absolute() or ".." in inner.parts:
            expected = f"a path within {path.parent}, without '..'"
            raise ArtifactError(f"{path}: its external data is in {location[:200]!r}; expected {expected}")
        confined(path.parent / inner, path.parent)


def _locations(data: _Buffer) -> Iterator[str]:
    waiting = [("ModelProto", 0, len(data), 0)]
    while waiting:
        kind, start, end, depth = waiting.pop()
        if depth > _DEEPEST:
            msg = f"messages nested more than {_DEEPEST} deep"
            raise ValueError(msg)
        if kind == "StringStringEntryProto":
            key, value = _entry(data, start, end)
            if key == b"location":
                yield value.decode()
            continue
        inner = FIELDS[kind]
        for number, first, last in _parts(data, start, end):
            if number in inner:
                waiting.append((inner[number], first, last, depth + 1))


def _entry(data: _Buffer, start: int, end: int) -> tuple[bytes, bytes]:
    found: dict[int, bytes] = {}
    for number, first, last in _parts(data, start, end):
        if number in found:  # which of the two counts is the parser's choice
            msg = "an external_data entry has a key or a value twice"
            raise ValueError(msg)
        found[number] = data[first:last]
    return found.get(_KEY, b""), found.get(_VALUE, b"")


def _parts(data: _Buffer, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Give the number, start and end of each field of a message that holds bytes."""
    while at < end:
        tag, at = _varint(data, at, end, _LONGEST_TAG)
        number, wire = tag >> 3, tag & 7
        if tag >> 32 or number == 0:
            msg = f"a field's tag is {tag}"
            raise ValueError(msg)
        if wire == _VARINT:
            _, at = _varint(data, at, end, _LONGEST_VARINT)
        elif wire == _BYTES:
            length, at = _varint(data, at, end, _LONGEST_VARINT)
            if length > end - at:
                msg = "it is cut short"
                raise ValueError(msg)
            yield number, at, at + length
            at += length
        elif wire in {_FIXED32, _FIXED64}:
            at += 4 if wire == _FIXED32 else 8
        else:
            msg = f"a field of wire type {wire}"
            raise ValueError(msg)
    if at > end:
        msg = "it is cut short"
        raise ValueError(msg)


def _varint(data: _Buffer, at: int, end: int, longest: int) -> tuple[int, int]:
    value = 0
    for i in range(min(longest, end - at)):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    msg = "it is cut short" if end - at < longest else "a number is too long"
    raise ValueError(msg)
