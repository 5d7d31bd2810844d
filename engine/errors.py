"""Every error that lazyneuron raises on purpose.

LazyneuronError
├── ArtifactError        an artifact or a model repository cannot be read
├── CheckpointError      a checkpoint cannot be exported
├── CalibrationError     calibration data cannot be used
├── InputError           a request's input does not fit the model
├── ConfigurationError   a setting, flag or environment variable is wrong
└── ServingError         a request that the server refuses
    ├── ModelNotFoundError
    ├── QueueFullError
    ├── DeadlineExceededError
    └── ShuttingDownError

A message says what was expected, what came and what to do; the command line prints it as it is, on one line.
"""

__all__ = [
    "ArtifactError",
    "CalibrationError",
    "CheckpointError",
    "ConfigurationError",
    "DeadlineExceededError",
    "InputError",
    "LazyneuronError",
    "ModelNotFoundError",
    "QueueFullError",
    "ServingError",
    "ShuttingDownError",
]


class LazyneuronError(Exception):
    """The root of lazyneuron's errors."""


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
    """

    def __init__(self, field: str, *, got: str, expected: str) -> None:
        super().__init__(f"{field}: got {got}; expected {expected}")
        self.field = field


class ServingError(LazyneuronError):
    """A request that the server refuses though its input may be right."""


class ModelNotFoundError(ServingError):
    """The server has no such model or version."""


class QueueFullError(ServingError):
    """The queue has no room; try again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceededError(ServingError):
    """The request's deadline passed before its work began."""


class ShuttingDownError(ServingError):
    """The server is stopping and takes no new work."""
