"""Every error that lazyneuron raises on purpose.

LazyneuronError
├── ArtifactError        an artifact or a model repository cannot be read
├── CheckpointError      a checkpoint cannot be exported
├── CalibrationError     calibration data cannot be used
├── InputError           a request's input does not fit the model
├── ConfigurationError   a setting, flag or environment variable is wrong
└── ServingError         a request that the server refuses
    ├── ModelNotFoundError
    ├── ModelUnavailableError
    ├── ModelLoadError
    ├── QueueFullError
    ├── DeviceMemoryError
    ├── DeadlineExceededError
    ├── UnsupportedError
    ├── ShuttingDownError
    ├── UnauthenticatedError
    └── PermissionDeniedError

A message says what was expected, what came and what to do; the command line prints it as it is, on one line.
"""

__all__ = [
    "REFUSALS",
    "ArtifactError",
    "CalibrationError",
    "CheckpointError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DeviceMemoryError",
    "InputError",
    "LazyneuronError",
    "ModelLoadError",
    "ModelNotFoundError",
    "ModelUnavailableError",
    "PermissionDeniedError",
    "QueueFullError",
    "ServingError",
    "ShuttingDownError",
    "UnauthenticatedError",
    "UnsupportedError",
    "one_line",
]

REFUSALS = (
    "queue_full",
    "queue_wait",
    "client_limit",
    "deadline",
    "too_large",
    "device_memory",
    "loading",
    "stopping",
)
"""Why a server refuses a request that may be right: no room in the queue by size, or by time; its client has its share;
its deadline passes before its turn; it is larger than the server takes, or than a GPU's memory holds; its model is
being loaded; the server stops."""


def one_line(error: object, most: int | None = None) -> str:
    """Return an error's message on one line, cut to `most` characters; its type's name where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class LazyneuronError(Exception):
    """The root of lazyneuron's errors.

    Attributes
    ----------
    refusal : str
        The reason, of `REFUSALS`, where a server turns away what it would take at another time or smaller; else empty.
    """

    refusal = ""


class ArtifactError(LazyneuronError):
    """An artifact or a model repository is missing, damaged or of another format version."""


class CheckpointError(LazyneuronError):
    """A checkpoint is missing, damaged or of a kind that cannot be exported."""


class CalibrationError(LazyneuronError):
    """Calibration data is missing, malformed or does not fit the model."""


class ConfigurationError(LazyneuronError):
    """A setting is wrong: a flag, a configuration file or an environment variable."""


class InputError(LazyneuronError):
    """A request's input does not fit the model.

    Attributes
    ----------
    field : str
        The input, parameter or field that is wrong.
    refusal : str
        `too_large` where it is the server that takes no more.
    """

    def __init__(self, field: str, *, got: str, expected: str, refusal: str = "") -> None:
        super().__init__(f"{field}: got {got}; expected {expected}")
        self.field = field
        self.refusal = refusal


class ServingError(LazyneuronError):
    """A request that the server refuses though its input may be right."""


class ModelNotFoundError(ServingError):
    """The server has no such model or version."""


class ModelUnavailableError(ServingError):
    """The server has the model, but it takes no requests just now; try again."""

    refusal = "loading"


class ModelLoadError(ServingError):
    """A version that a client asked for cannot be served; what was served before still is."""


class QueueFullError(ServingError):
    """The queue has no room; try again after `retry_after` seconds.

    Attributes
    ----------
    refusal : str
        `queue_full`, `queue_wait` or `client_limit`.
    """

    def __init__(self, message: str, *, retry_after: float, refusal: str = "queue_full") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.refusal = refusal


class DeviceMemoryError(ServingError):
    """A GPU's memory does not hold the request's batch, nor a smaller one; send less at a time."""

    refusal = "device_memory"


class DeadlineExceededError(ServingError):
    """The request's deadline passed before its work began."""

    refusal = "deadline"


class UnsupportedError(ServingError):
    """A part of a protocol that the server does not have, by intent."""


class ShuttingDownError(ServingError):
    """The server is stopping and takes no new work."""

    refusal = "stopping"


class UnauthenticatedError(ServingError):
    """The caller showed no credentials, or none that the server knows.

    Attributes
    ----------
    reason : str
        `missing`, `malformed` or `unknown`.
    """

    def __init__(self, message: str, reason: str = "unknown") -> None:
        super().__init__(message)
        self.reason = reason


class PermissionDeniedError(ServingError):
    """The caller is known and may not do this."""
