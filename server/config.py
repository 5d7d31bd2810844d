"""The server's settings: one frozen model, filled from a TOML file and from flags."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lazyneuron.engine.batching import Limits
from lazyneuron.engine.errors import ConfigurationError

__all__ = ["BatchingConfig", "QueueConfig", "ServerConfig", "load_config"]

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BatchingConfig(_Part):
    """`[batching]`: what bounds a batch, for each model."""

    max_tokens: Positive = 8192
    """Tokens (examples × padded length) in a batch; a request larger than this runs alone."""
    max_requests: Positive = 64
    window_seconds: Seconds = 0.002
    """How long a request waits for company while the engine is busy; an idle engine takes it at once."""
    max_padding: Annotated[float, Field(ge=0, le=1)] = 0.25
    """The share of a batch's tokens that may be padding."""
    concurrency: Positive = 1
    """Batches of one model that run at the same time, sharing its ONNX Runtime threads."""

    @property
    def limits(self) -> Limits:
        """The planner's form of these."""
        return Limits(self.max_tokens, self.max_requests, self.window_seconds, self.max_padding)


class QueueConfig(_Part):
    """`[queue]`: how much may wait, for each model; more is refused with RESOURCE_EXHAUSTED."""

    max_tokens: Positive = 131_072
    max_requests: Positive = 2048


class ServerConfig(_Part):
    """All settings of `lazyneuron serve`."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    grpc_port: Port = 8001
    """0 takes a free port; the ready line tells which."""
    http_port: Port = 8002
    threads: Positive | None = None
    """ONNX Runtime's intra-op threads for each model; absent: one a usable core."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 2**20
    """A larger gRPC message is refused with RESOURCE_EXHAUSTED, unread."""
    grace_seconds: Seconds = 30.0
    """How long admitted requests may take to finish after SIGTERM."""
    reflection: bool = True
    batching: BatchingConfig = BatchingConfig()
    queue: QueueConfig = QueueConfig()


_KEYS = {
    "": ServerConfig.model_fields,
    "batching": BatchingConfig.model_fields,
    "queue": QueueConfig.model_fields,
}


def load_config(file: Path | None, flags: Mapping[str, Any]) -> ServerConfig:
    """Return the settings of a TOML file, overridden by the flags that are not None.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or a key or value is wrong.
    """
    values = _read(file) if file is not None else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return ServerConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(_describe(error, file)) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{file}: no such file; --config takes a TOML file") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: not readable as TOML: {error}") from error


def _describe(error: ValidationError, file: Path | None) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    source = f"{file}: " if file is not None else ""
    if first["type"] != "extra_forbidden":
        return f"{source}{where}: {first['msg']} (got {first['input']!r:.80})"
    table = str(first["loc"][0]) if len(first["loc"]) > 1 else ""
    return f"{source}{where}: unknown key; expected one of {', '.join(sorted(_KEYS[table]))}"
