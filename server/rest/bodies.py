"""A request's body: bounded in size and time, decompressed within the same bound, and cut into JSON and binary data."""

import asyncio
import gc
import threading
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request

from lazyneuron.engine.errors import InputError

__all__ = ["HEADER_LENGTH", "BodyError", "in_thread_if_large", "parse_json", "read_body", "split"]

HEADER_LENGTH = "inference-header-content-length"
"""The header that tells where in a body the JSON ends and binary data begins."""

_LARGE_BYTES = 64 * 1024  # from here on, the hop to a thread costs less than the work
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's; HTTP's deflate is zlib's format

_Result = TypeVar("_Result")


class BodyError(InputError):
    """A body that is not taken; `http_status` says more than a gRPC status could."""

    def __init__(self, http_status: int, *, got: str, expected: str) -> None:
        super().__init__("body", got=got, expected=expected, refusal="too_large" if http_status == 413 else "")
        self.http_status = http_status


async def read_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """Return a request's body, decompressed.

    Parameters
    ----------
    limit
        The most bytes that it may have, as sent and decompressed.
    seconds
        How long it may take to arrive.

    Raises
    ------
    BodyError
        If it is larger (413), late (408), cut short (400), or of an encoding that is not known (415) or not kept (400).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", *_WINDOW_BITS):
        raise BodyError(415, got=f"content-encoding {encoding[:40]!r}", expected="gzip, deflate or none")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(f"{declared[:20]} bytes", limit)
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, limit)
    except TimeoutError:
        raise BodyError(408, got="only a part of it", expected=f"all of it within {seconds:g} s") from None
    except ClientDisconnect:
        raise BodyError(400, got="only a part of it", expected="all of it") from None
    if encoding not in _WINDOW_BITS:
        return body
    return await in_thread_if_large(len(body), lambda: _decompress(body, encoding, limit))


def split(body: bytes, header_length: str | None, max_json_bytes: int) -> tuple[bytes, memoryview]:
    """Return a body's JSON and its binary data.

    Parameters
    ----------
    header_length
        The value of the header `HEADER_LENGTH`; None: all of it is JSON.
    max_json_bytes
        The most bytes of JSON that are taken.

    Raises
    ------
    BodyError
        If the header does not fit the body, or there is more JSON than that.
    """
    length = len(body)
    if header_length is not None:
        text = header_length.strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= length):
            expected = f"a number of bytes, at most the body's {length}"
            raise BodyError(400, got=f"{HEADER_LENGTH} {text[:40]!r}", expected=expected)
        length = int(text)
    if length > max_json_bytes:
        expected = f"at most {max_json_bytes}; send large tensors as binary data (Inference-Header-Content-Length)"
        raise BodyError(413, got=f"{length} bytes of JSON", expected=expected)
    return body[:length], memoryview(body)[length:]


def parse_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Raises
    ------
    BodyError
        If it is none.
    """
    try:
        with _collection_paused:
            document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BodyError(400, got=f"{len(data)} bytes that are not JSON ({error})", expected="a JSON object") from None
    if not isinstance(document, dict):
        raise BodyError(400, got=f"a JSON {_kind(document)}", expected="a JSON object")
    return document


async def in_thread_if_large(size: int, work: Callable[[], _Result]) -> _Result:
    """Return what `work` does: in a thread if it is on many bytes, so that the event loop does not stand still."""
    return await asyncio.to_thread(work) if size >= _LARGE_BYTES else work()


class _CollectionPaused:
    """Pauses Python's cycle collector while JSON is parsed: nothing in it can be in a cycle.

    Otherwise the collector looks at all of a large document again and again while it grows, which takes several times
    as long as parsing it, and nothing else runs meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._was_on = True

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._was_on:
                gc.enable()


_collection_paused = _CollectionPaused()


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(f"more than {limit} bytes", limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BodyError(400, got=f"bytes that are not {encoding} ({error})", expected=encoding) from None
    if len(data) > limit:
        raise _too_large(f"more than {limit} bytes once decompressed", limit)
    if not stream.eof or stream.unused_data:
        got = "bytes after its end" if stream.eof else "only a part of it"
        raise BodyError(400, got=got, expected=f"one whole {encoding} stream")
    return data


def _too_large(got: str, limit: int) -> BodyError:
    return BodyError(413, got=got, expected=f"at most {limit} (max_message_bytes)")


def _kind(value: object) -> str:
    return {list: "array", str: "string", type(None): "null", bool: "boolean"}.get(type(value), "number")
