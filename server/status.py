"""Which status each of our errors becomes, over gRPC and HTTP: the one table, used by the server and the client."""

from grpc import StatusCode

from lazyneuron.engine import errors

__all__ = [
    "ERROR_KEY",
    "HTTP_STATUS",
    "PUSHBACK_KEY",
    "REQUEST_ID",
    "STATUS",
    "message",
    "status_of",
    "trailing_metadata",
]

STATUS: dict[type[errors.LazyneuronError], StatusCode] = {
    errors.LazyneuronError: StatusCode.INTERNAL,
    errors.ArtifactError: StatusCode.INTERNAL,
    errors.CheckpointError: StatusCode.INTERNAL,
    errors.CalibrationError: StatusCode.INTERNAL,
    errors.ConfigurationError: StatusCode.INTERNAL,
    errors.InputError: StatusCode.INVALID_ARGUMENT,
    errors.ServingError: StatusCode.UNAVAILABLE,
    errors.ModelNotFoundError: StatusCode.NOT_FOUND,
    errors.ModelUnavailableError: StatusCode.UNAVAILABLE,
    errors.ModelLoadError: StatusCode.FAILED_PRECONDITION,
    errors.QueueFullError: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeviceMemoryError: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: StatusCode.DEADLINE_EXCEEDED,
    errors.ShuttingDownError: StatusCode.UNAVAILABLE,
    errors.UnauthenticatedError: StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: StatusCode.PERMISSION_DENIED,
    errors.UnsupportedError: StatusCode.UNIMPLEMENTED,
}

HTTP_STATUS: dict[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ABORTED: 409,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.INTERNAL: 500,
    StatusCode.UNKNOWN: 500,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
"""As `google.rpc.Code` maps them."""

ERROR_KEY = "lazyneuron-error"
"""Trailing metadata: the class of the error, so that our client raises the same one."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC's own retries obey."""
REQUEST_ID = "x-request-id"
"""The header that names a request, and the trailing metadata or header that says which name it got."""

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
    if isinstance(error, errors.DeviceMemoryError):
        metadata.append((PUSHBACK_KEY, "-1"))  # gRPC's word for: not again, it would not fit either
    return tuple(metadata)
