"""The server's settings: one frozen model, filled from a TOML file, the environment and flags, each over the last."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lazyneuron.engine.batching import Limits
from lazyneuron.engine.devices.choice import asked_devices
from lazyneuron.server.layers import lay_over, read_environment, read_flags, read_toml

__all__ = [
    "AuthConfig",
    "BatchingConfig",
    "BudgetConfig",
    "ClientsConfig",
    "GpuConfig",
    "HttpConfig",
    "LimitsConfig",
    "LogConfig",
    "PageConfig",
    "QueueConfig",
    "RepositoryConfig",
    "RestConfig",
    "ServerConfig",
    "Settings",
    "StreamConfig",
    "TlsConfig",
    "TracingConfig",
    "load_config",
    "load_settings",
]

Port = Annotated[int, Field(ge=0, le=65535)]
_LONGEST = 2_000_000.0  # seconds; gRPC and epoll have 32 bits for milliseconds
Seconds = Annotated[float, Field(ge=0, le=_LONGEST)]
Period = Annotated[float, Field(gt=0, le=_LONGEST)]
Positive = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]


def _tuple(value: Any) -> Any:  # noqa: ANN401  pydantic hands over whatever the file has
    return tuple(value) if isinstance(value, list) else value  # TOML and JSON know lists only


def _devices(value: str) -> str:
    try:
        asked_devices(value)
    except ValueError as error:
        raise ValueError(f"device: {error}") from None
    return value


Devices = Annotated[
    str,
    AfterValidator(_devices),
    Field(json_schema_extra={"pattern": r"^(auto|cpu|cuda:\d{1,4}(\s*,\s*cuda:\d{1,4})*)$"}),
]
File = Annotated[Path, Field(strict=False)]  # a text in the file
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class BatchingConfig(_Part):
    """`[batching]`: what bounds a batch, for each model."""

    max_tokens: Positive = 8192
    """Tokens (examples × padded length) in a batch; a larger request runs in parts of so many, and an example that
    alone is larger runs alone."""
    max_requests: Positive = 64
    """Requests in a batch."""
    window_seconds: Seconds = 0.002
    """With concurrency above 1: the most that a request waits for company while another batch of its model runs; it
    waits less, or not at all, when few arrive."""
    max_padding: Share = 0.25
    """The share of a batch's tokens that may be padding."""
    max_seconds: Period = 0.25
    """How long a batch shall take: a slow model's are made smaller than `max_tokens` for that."""
    concurrency: Threads = 1
    """Batches of one model that run at the same time, sharing its ONNX Runtime threads. Models take turns: together
    they run no more at the same time than one of them would."""

    @property
    def limits(self) -> Limits:
        """The planner's form of these."""
        return Limits(self.max_tokens, self.max_requests, self.window_seconds, self.max_padding, self.max_seconds)


class GpuConfig(_Part):
    """`[gpu]`: how GPUs are used, where `device` chooses some."""

    memory_share: SomeShare = 0.9
    """Of the memory that is free when a model's session opens, the most that it may take: its weights and batches."""
    tf32: bool = False
    """Whether products of float32 numbers may keep 10 bits of them, as tensor cores do. Off: outputs are the CPU's
    within float32 rounding."""
    graphs: bool = False
    """Whether CUDA graphs are captured: batches are padded to a small set of shapes, and each shape that comes a second
    time is replayed by one launch. For models whose every node runs on the GPU; others run without, and the log says
    so."""


class QueueConfig(_Part):
    """`[queue]`: how much may wait, for each model; more is refused with RESOURCE_EXHAUSTED."""

    max_tokens: Positive = 131_072
    """Tokens that may wait."""
    max_requests: Positive = 2048
    """Requests that may wait."""
    max_wait_seconds: Period = 10.0
    """More is refused when so much work is ahead of it, at the speed that was measured; one batch may always wait."""


class ClientsConfig(_Part):
    """`[clients]`: what one client may have, for each model."""

    queue_share: SomeShare = 0.8
    """Of the queue's tokens and requests; its only request may be of any size."""
    max_in_flight: Positive | None = None
    """Requests that wait or run; absent: no limit."""


class LimitsConfig(_Part):
    """`[limits]`: what one request may be; a model's own limits hold too. More is refused with INVALID_ARGUMENT."""

    max_tokens: Positive = 131_072
    """Examples × length."""
    max_batch: Positive = 131_072
    """Examples."""
    max_length: Positive = 32_768
    """Of each ragged axis."""
    max_rank: Annotated[int, Field(ge=1, le=64)] = 8
    """Axes of a tensor."""
    max_characters: Positive = 262_144
    """Characters of a text, before it becomes tokens."""


class BudgetConfig(_Part):
    """`[budget]`: classes of quality, and how far load may lower the share of the exported k."""

    classes: dict[Annotated[str, Field(min_length=1)], SomeShare] = {"economy": 0.5, "standard": 1.0, "exact": 1.0}
    """Budgets that requests ask for by name."""
    exact: list[str] = ["exact"]
    """Classes that load never lowers."""
    lowest: SomeShare = 1.0
    """What load may lower a request's budget to; 1: never lowered."""
    from_pressure: Share = 0.5
    """The share of the queue's room that is taken, from which on budgets are lowered."""
    to_pressure: Share = 0.9
    """That at which the lowest is reached."""
    hysteresis: Share = 0.2
    """By how much pressure has to fall before budgets rise again."""

    @model_validator(mode="after")
    def _consistent(self) -> "BudgetConfig":
        if "exact" in self.model_fields_set and (unknown := [name for name in self.exact if name not in self.classes]):
            msg = f"budget.exact names {unknown[0]!r}, which is not one of budget.classes"
            raise ValueError(msg)
        if self.from_pressure >= self.to_pressure:
            msg = f"budget.from_pressure {self.from_pressure:g} is not below budget.to_pressure {self.to_pressure:g}"
            raise ValueError(msg)
        return self


class TlsConfig(_Part):
    """`[tls]`: PEM files, on both ports; a changed file is taken up without a restart."""

    certificate: File | None = None
    """The server's certificate and those between it and its authority; absent: no TLS."""
    key: File | None = None
    """The certificate's private key, without a passphrase."""
    client_ca: File | None = None
    """The authorities of client certificates (mutual TLS); a client without a certificate of theirs is refused."""
    http_client_certificates: bool = True
    """Whether the HTTP port asks for client certificates too; probes and Prometheus often have none."""
    max_connection_seconds: Period | None = None
    """How long a gRPC connection may last, so that a revoked client certificate's ends too; absent: any time."""
    reload_seconds: Period = 1.0
    """How often the files of `[tls]` and `[auth]` are looked at."""

    @model_validator(mode="after")
    def _together(self) -> "TlsConfig":
        if (self.certificate is None) != (self.key is None):
            there, absent = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise ValueError(f"tls.{there} is set and tls.{absent} is not; expected both or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("tls.client_ca is set without tls.certificate and tls.key; mutual TLS needs all three")
        return self


class AuthConfig(_Part):
    """`[auth]`: who may call. Authentication is on with `tokens_file`, or with `tls.client_ca`."""

    tokens_file: File | None = None
    """Lines `NAME:ROLE:TOKEN` or `NAME:ROLE:sha256:HEX`, ROLE being client or admin; `lazyneuron token` makes them."""
    admin_certificates: Names = ()
    """Common names of the client certificates that are admins, where there is no `tokens_file`."""
    open_metrics: bool = False
    """Whether `/metrics` needs no authentication."""


class HttpConfig(_Part):
    """`[http]`: what the HTTP port bears of a client."""

    max_connections: Positive = 1024
    """Connections at the same time; further ones are closed at once."""
    max_header_bytes: Annotated[int, Field(ge=1024, le=2**20)] = 32 * 1024
    """A request's line and headers together; more is answered 400."""
    header_seconds: Period = 10.0
    """How long a request's headers may take to arrive, and how long a connection may be idle before its first."""
    body_seconds: Period = 30.0
    """How long a request's body may take to arrive."""
    write_seconds: Period = 30.0
    """How long a client may leave an answer unread before its connection is cut."""
    idle_seconds: Period = 15.0
    """How long a connection is kept for a further request."""
    allowed_hosts: Names = ()
    """Host names that requests may be for; none: those of the loopback where only that is bound, any elsewhere."""


class LogConfig(_Part):
    """`[log]`: what goes to standard error."""

    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe that is written."""
    access: Literal["none", "errors", "all"] = "errors"
    """The calls that get a line: none, those whose fault is the server's or its load's, or all."""
    access_sample: Share = 1.0
    """The share of the calls without such a fault that get a line, where `access` is all."""
    access_per_second: Positive = 200
    """Lines of calls in a second; more are left out and counted, so that a storm of refusals costs little."""
    max_waiting: Positive = 8192
    """Lines that may wait for a slow disk or pipe; more are dropped and counted."""


class TracingConfig(_Part):
    """`[tracing]`: OpenTelemetry, from the extra `lazyneuron[tracing]`."""

    endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Where spans go by OTLP over HTTP, as http://collector:4318/v1/traces; absent: no tracing."""
    sample_ratio: Share = 0.1
    """The share of requests that are traced if whoever calls has not decided already."""
    service_name: Annotated[str, Field(min_length=1)] = "lazyneuron"
    """The name under which spans are filed."""


class StreamConfig(_Part):
    """`[stream]`: bounds of one gRPC stream of requests (ModelStreamInfer, PredictStream)."""

    max_in_flight: Positive = 64
    """Requests of one stream that are answered at the same time; no more are read until the client takes an answer."""


class PageConfig(_Part):
    """`[page]`: the live page at `/` of the HTTP port."""

    enabled: bool = True
    """Whether there is one; its box to try a model needs `rest.enabled`, too."""
    max_watchers: Positive = 64
    """Browsers that may follow it at the same time; others see the numbers of when they loaded it, and ask again."""


class RestConfig(_Part):
    """`[rest]`: inference over HTTP; `max_message_bytes` bounds a body, once it is decompressed."""

    enabled: bool = True
    """Whether the HTTP port takes requests for models; metrics and health are there in any case."""
    max_json_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 16 * 2**20
    """The JSON in a body, without the binary data after it: parsing it holds up everything else."""
    max_instances: Positive = 256
    """Instances in one request of `/v1/models/NAME:predict`."""


class RepositoryConfig(_Part):
    """`[repository]`: which models are served, and what they may take."""

    versions: Literal["latest", "all"] | Positive = "latest"
    """How many of a model's versions are served: the highest, all, or that many of the highest. One that cannot be
    served counts as not there."""
    watch: Literal["events", "poll", "off"] = "events"
    """How changes of the folder are noticed: by the kernel's events, with a look every `rescan_seconds` beside; by
    those looks alone; or not, so that models change by the protocol's repository calls alone."""
    rescan_seconds: Period = 5.0
    """Between looks at the folder."""
    memory_bytes: Positive | None = None
    """The most that all loaded models may take; what does not fit is refused. Absent: no limit."""
    drain_first: bool = False
    """Where a new version does not fit beside the old one: whether to free the old one first, so that the model takes
    no requests while the new one loads. Otherwise the new one is refused."""
    copies: str | None = None
    """A folder on a disk: a version's files are copied there before they are checked, loaded from there, and removed at
    once; their room is free again when the version is unloaded. What is written over a served version's files then
    harms nothing. Absent: they are loaded from where they lie."""
    trusted_keys: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Files with Ed25519 public keys; where there are any, models that none of them signed are refused."""


class ServerConfig(_Part):
    """All settings of `lazyneuron serve`."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen on; nothing but the loopback is bound unless this says so."""
    grpc_port: Port = 8001
    """0 takes a free port; the ready line tells which."""
    http_port: Port = 8002
    """0 takes a free port."""
    device: Devices = "auto"
    """Where models run: `cpu`; a GPU, as `cuda:0`; several, as `cuda:0,cuda:1`, with a session of each model on each;
    or `auto`, the first GPU where all that it needs is there, else the CPU."""
    threads: Threads | None = None
    """ONNX Runtime's intra-op threads for each model; absent: one a usable core."""
    auto_tune: bool = False
    """Measure at the start how each model is best run here, unless it was measured before; over `threads` and
    `batching.concurrency`."""
    tuning_seconds: Period = 2.0
    """For each setting that is tried."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 2**20
    """A larger gRPC message is refused with RESOURCE_EXHAUSTED, a larger HTTP body with 413, unread."""
    grace_seconds: Seconds = 30.0
    """How long admitted requests may take to finish after SIGTERM."""
    reflection: bool = True
    """gRPC server reflection; for admins where authentication is on."""
    repository_calls: bool = True
    """The Open Inference Protocol's repository calls (list, load, unload); for admins where authentication is on."""
    batching: BatchingConfig = BatchingConfig()
    gpu: GpuConfig = GpuConfig()
    queue: QueueConfig = QueueConfig()
    clients: ClientsConfig = ClientsConfig()
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    repository: RepositoryConfig = RepositoryConfig()
    stream: StreamConfig = StreamConfig()
    rest: RestConfig = RestConfig()
    page: PageConfig = PageConfig()
    tls: TlsConfig = TlsConfig()
    auth: AuthConfig = AuthConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()


@dataclass(frozen=True)
class Settings:
    """The settings, and where each comes from.

    Attributes
    ----------
    config
        The settings.
    sources
        By a setting's name (`batching.max_tokens`): a file, a variable, a flag, or `default`.
    """

    config: ServerConfig
    sources: Mapping[str, str]


def load_settings(
    file: Path | None,
    flags: Mapping[str, Any],
    *,
    assignments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of a TOML file, under the environment's, under the flags that are not None.

    Parameters
    ----------
    file
        The file; None for none.
    flags
        By a setting's name.
    assignments
        `NAME=VALUE` for any setting, over all others.
    environment
        Variables; None: the process's. `LAZYNEURON_BATCHING__MAX_TOKENS` sets `batching.max_tokens`.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or a key or value is wrong.
    """
    layers = [read_toml(file, ServerConfig)] if file is not None else []
    layers.append(read_environment(os.environ if environment is None else environment, ServerConfig))
    layers.append(read_flags(flags, assignments, ServerConfig))
    config, sources = lay_over(ServerConfig, *layers)
    assert isinstance(config, ServerConfig)
    return Settings(config, sources)


def load_config(file: Path | None, flags: Mapping[str, Any]) -> ServerConfig:
    """Return the settings alone, as `load_settings`.

    Raises
    ------
    ConfigurationError
        As `load_settings`.
    """
    return load_settings(file, flags).config
