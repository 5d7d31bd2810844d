"""Which gRPC status each of our errors becomes, and back: the one table, used by the server and the client."""

from grpc import StatusCode

from lazyneuron.engine import errors

__all__ = ["ERROR_KEY", "PUSHBACK_KEY", "STATUS", "message", "status_of", "trailing_metadata"]

STATUS: dict[type[errors.LazyneuronError], StatusCode] = {
    errors.LazyneuronError: StatusCode.INTERNAL,
    errors.ArtifactError: StatusCode.INTERNAL,
    errors.CheckpointError: StatusCode.INTERNAL,
    errors.CalibrationError: StatusCode.INTERNAL,
    errors.ConfigurationError: StatusCode.INTERNAL,
    errors.InputError: StatusCode.INVALID_ARGUMENT,
    errors.ServingError: StatusCode.UNAVAILABLE,
    errors.ModelNotFoundError: StatusCode.NOT_FOUND,
    errors.QueueFullError: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: StatusCode.DEADLINE_EXCEEDED,
    errors.ShuttingDownError: StatusCode.UNAVAILABLE,
}

ERROR_KEY = "lazyneuron-error"
"""Trailing metadata: the class of the error, so that our client raises the same one."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC's own retries obey."""

_LONGEST_MESSAGE = 1000  # a status travels in a header, and proxies bound those at a few kilobytes


def status_of(error: errors.LazyneuronError) -> StatusCode:
    """Return the status of an error, or of its nearest base class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def message(error: errors.LazyneuronError) -> str:
    """Return the error's text, bounded: a client's own values may be in it."""
    text = str(error)
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"


def trailing_metadata(error: errors.LazyneuronError) -> tuple[tuple[str, str], ...]:
    """Return what goes with the status."""
    metadata = [(ERROR_KEY, type(error).__name__)]
    if isinstance(error, errors.QueueFullError):
        metadata.append((PUSHBACK_KEY, str(max(1, round(error.retry_after * 1000)))))
    return tuple(metadata)
