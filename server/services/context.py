"""What handlers read from a call's context."""

import time
from typing import Any

import grpc

__all__ = ["deadline_of"]

_NEVER = 365 * 24 * 3600.0  # gRPC gives an infinite deadline as a very distant one


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Return the call's deadline on the clock of `time.monotonic`; None when it has none."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _NEVER else time.monotonic() + remaining
