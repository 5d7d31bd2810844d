"""Messages that a gRPC client has compressed, decompressed within the bound that a message has.

gRPC's core would decompress all of a message before it looks at the bound: a megabyte can become a gigabyte. So it is
told to hand them over as they came. It does not say which are compressed; their first bytes do.
"""

import zlib

from lazyneuron.engine.errors import InputError

__all__ = ["CORE_OPTIONS", "decompressed"]

CORE_OPTIONS = (("grpc.per_message_decompression", 0),)
_GZIP = 31  # zlib's window bits, for a gzip header
# No message begins so: the first is a tag of a wire type that there is not, the second of a field that none has.
_WINDOW_BITS = {b"\x1f": _GZIP, b"x": zlib.MAX_WBITS}


def decompressed(raw: bytes, limit: int) -> bytes:
    """Return a message's bytes, of which there may be no more than `limit`.

    Raises
    ------
    InputError
        If there are more, or the message is damaged.
    """
    window_bits = _WINDOW_BITS.get(raw[:1])
    if window_bits is None:
        return raw
    stream = zlib.decompressobj(window_bits)
    try:
        data = stream.decompress(raw, limit + 1)
    except zlib.error as error:
        raise InputError("message", got=f"bytes that cannot be decompressed ({error})", expected="protobuf") from None
    if len(data) > limit:
        expected = f"at most {limit} (max_message_bytes)"
        raise InputError("message", got=f"more than {limit} bytes once decompressed", expected=expected)
    if not stream.eof or stream.unused_data:
        got = "bytes after its end" if stream.eof else "only a part of it"
        raise InputError("message", got=got, expected="one whole compressed message")
    return data
