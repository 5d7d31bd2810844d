"""A body is read within its bounds, or refused in words."""

import asyncio
import gc
import gzip
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from lazyneuron.server.rest.bodies import BodyError, parse_json, read_body, split

RAW_DEFLATE = zlib.compressobj(wbits=-15)
MEBIBYTE = 2**20


def read(chunks: Sequence[bytes], limit: int = 1000, seconds: float = 10, **headers: str) -> bytes:
    pending = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]

    async def receive() -> dict[str, Any]:
        if not pending:
            await asyncio.Event().wait()
        message = pending.pop(0)
        return message if pending or message.get("more_body") is False else message | {"more_body": False}

    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": sent}
    return asyncio.run(read_body(Request(scope, receive), limit=limit, seconds=seconds))


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5))
def test_chunks_are_one_body(chunks: list[bytes]) -> None:
    assert read(chunks) == b"".join(chunks)


@given(st.binary(max_size=200))
def test_compressed_bodies(data: bytes) -> None:
    assert read([gzip.compress(data)], content_encoding="gzip") == data
    assert read([zlib.compress(data)], content_encoding="Deflate") == data


BOMB = gzip.compress(b"\0" * 64 * MEBIBYTE)
REFUSED = {
    "declared too large": (413, {"chunks": [b"x"], "content_length": "1001"}, r"1001 bytes; expected at most 1000"),
    "too large": (413, {"chunks": [b"x" * 600] * 2}, r"more than 1000 bytes; expected at most 1000"),
    "bomb": (413, {"chunks": [BOMB], "limit": len(BOMB), "content_encoding": "gzip"}, "once decompressed"),
    "cut short": (400, {"chunks": [gzip.compress(b"lazy")[:-3]], "content_encoding": "gzip"}, "only a part of it"),
    "two streams": (400, {"chunks": [gzip.compress(b"a") * 2], "content_encoding": "gzip"}, "bytes after its end"),
    "not compressed": (400, {"chunks": [b"lazy"], "content_encoding": "gzip"}, r"bytes that are not gzip \("),
    "unknown encoding": (415, {"chunks": [b"x"], "content_encoding": "br"}, "content-encoding 'br'; expected gzip"),
    "two encodings": (415, {"chunks": [b"x"], "content_encoding": "gzip, gzip"}, "expected gzip, deflate or none"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    status, how, words = REFUSED[kind]
    with pytest.raises(BodyError, match=words) as caught:
        read(**how)
    assert caught.value.http_status == status


def test_a_body_that_does_not_come() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(BodyError, match=r"expected all of it within 0\.01 s") as caught:
        asyncio.run(read_body(request, limit=10, seconds=0.01))
    assert caught.value.http_status == 408


def test_a_client_that_leaves() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(BodyError, match="only a part of it"):
        asyncio.run(read_body(request, limit=10, seconds=10))


def test_json_and_what_follows_it() -> None:
    json, rest = split(b'{"a":1}\x00\x01', "7", 100)
    assert (json, bytes(rest)) == (b'{"a":1}', b"\x00\x01")
    json, rest = split(b"{}", None, 100)
    assert (json, bytes(rest)) == (b"{}", b"")


@pytest.mark.parametrize("length", ["-1", "10", "1e1", "", "٣", "9" * 30, "0x2"])
def test_a_header_length_that_does_not_fit(length: str) -> None:
    with pytest.raises(BodyError, match="inference-header-content-length"):
        split(b"123456789", length, 100)


def test_more_json_than_is_taken() -> None:
    with pytest.raises(BodyError, match="got 101 bytes of JSON; expected at most 100; send large tensors as") as caught:
        split(b" " * 101, None, 100)
    assert caught.value.http_status == 413


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"null", b'"a"', b"1", b"{}{}", b'{"a":NaN}', b"\xff", b"[" * 5000]
)
def test_what_is_no_json_object(text: bytes) -> None:
    with pytest.raises(BodyError, match="expected a JSON object"):
        parse_json(text)


def test_the_collector_runs_again_after_parsing() -> None:
    documents = [b'{"a":[' + b"[1]," * 50_000 + b"1]}", b"{" * 100_000] * 8
    with ThreadPoolExecutor(8) as threads:
        parsed = [threads.submit(parse_json, document) for document in documents]
        assert [one.exception() is None for one in parsed] == [True, False] * 8
    assert gc.isenabled()
