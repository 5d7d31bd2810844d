"""How a client's channel behaves: retries, keepalive, limits. Both clients open theirs from this."""

import json
from dataclasses import dataclass
from typing import Any

from grpc_health.v1.health_pb2_grpc import HealthStub

from lazyneuron.engine.errors import ConfigurationError

__all__ = [
    "Retries",
    "channel_options",
    "check_address",
    "check_positive",
    "check_timeout",
    "health_check",
]

_SERVICES = ("lazyneuron.v1.PredictionService", "inference.GRPCInferenceService")
_ANSWER_SECONDS = 10.0  # what a server has to answer a ping, or less where pings are more frequent
_MOST_ATTEMPTS = 5  # gRPC's own bound; it would take more for 5 in silence

# gRPC keeps a request until its answer begins, to send it again, if it is no larger than this. What it keeps is shared
# with the call, not copied.
_RETRIED_BYTES = 16 * 2**20
# A client sends no more than one retry for ten calls once half of the hundred have failed: gRFC A6's throttling. So
# that clients which are refused do not make an overload worse.
_THROTTLING = {"maxTokens": 100, "tokenRatio": 0.1}


@dataclass(frozen=True, slots=True)
class Retries:
    """When a call that a server refused is sent again. gRPC does it, within the call's timeout.

    Only calls that had no effect are: the server was not reached or is stopping, its queue is full, or it had no time
    to read the call. A server whose queue is full says when to come back, and that is obeyed.

    Attributes
    ----------
    attempts
        Calls in all, 1 to 5; 1: none is sent again.
    first_wait, longest_wait
        Seconds before the first retry, and the most before any; doubled each time, and varied at random by a fifth.

    Raises
    ------
    ConfigurationError
        If a value is outside its bounds.
    """

    attempts: int = 4
    first_wait: float = 0.05
    longest_wait: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= _MOST_ATTEMPTS:
            raise ConfigurationError(f"retries.attempts is {self.attempts}; expected 1 to {_MOST_ATTEMPTS}")
        if not 0 < self.first_wait <= self.longest_wait < float("inf"):
            waits = f"first_wait is {self.first_wait:g} and longest_wait {self.longest_wait:g}"
            raise ConfigurationError(f"retries: {waits}; expected 0 < first_wait <= longest_wait")

    def service_config(self) -> dict[str, Any]:
        """Return the retries as gRPC's service configuration has them (gRFC A6)."""
        policy = {
            "maxAttempts": self.attempts,
            "initialBackoff": f"{self.first_wait:.9f}s",
            "maxBackoff": f"{self.longest_wait:.9f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
        }
        names = [{"service": service} for service in _SERVICES]
        return {"methodConfig": [{"name": names, "retryPolicy": policy}], "retryThrottling": _THROTTLING}


def channel_options(retries: Retries, keepalive: float) -> list[tuple[str, Any]]:
    """Return the channel's options.

    Parameters
    ----------
    retries
        When calls are sent again.
    keepalive
        Seconds without a sign of life, while calls are under way, after which the server is asked for one; 0: never.

    Raises
    ------
    ConfigurationError
        If `keepalive` is negative or no number.
    """
    if not 0 <= keepalive < float("inf"):
        raise ConfigurationError(f"keepalive is {keepalive}; expected seconds, or 0")
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),  # the server's own limits hold
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", int(retries.attempts > 1)),
        ("grpc.per_rpc_retry_buffer_size", _RETRIED_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if retries.attempts > 1:
        options.append(("grpc.service_config", json.dumps(retries.service_config())))
    if keepalive:
        answer_ms = round(min(keepalive, _ANSWER_SECONDS) * 1000)
        options += [
            ("grpc.keepalive_time_ms", round(keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", answer_ms),
            ("grpc.http2.ping_timeout_ms", answer_ms),  # its default of a minute would hold instead
            ("grpc.http2.max_pings_without_data", 0),  # a long call has no data under way; 0 is no limit
        ]
    return options


def check_address(address: object) -> str:
    """Return an address.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    if not isinstance(address, str) or not address:
        raise ConfigurationError(f"address is {address!r}; expected HOST:PORT")
    return address


def check_timeout(timeout: float | None) -> float | None:
    """Return a timeout.

    Raises
    ------
    ConfigurationError
        If it is not positive.
    """
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"timeout is {timeout}; expected more than 0 seconds, or None")
    return timeout


def check_positive(name: str, value: int) -> int:
    """Return a number of things.

    Raises
    ------
    ConfigurationError
        If it is less than 1.
    """
    if value < 1:
        raise ConfigurationError(f"{name} is {value}; expected at least 1")
    return value


def health_check(channel: Any) -> Any:  # noqa: ANN401  grpcio-health-checking types neither kind of stub
    """Return the health service's `Check` on a channel of either kind."""
    return HealthStub(channel).Check  # type: ignore[attr-defined]
