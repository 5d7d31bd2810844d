"""What is kept of every call beside its metrics: its id, its line in the access log, its trace."""

import logging
import random
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from lazyneuron.engine.errors import LazyneuronError, PermissionDeniedError, UnauthenticatedError
from lazyneuron.server.auth import current_subject
from lazyneuron.server.calls import Call, fresh_id
from lazyneuron.server.config import LogConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.rate import PerSecond
from lazyneuron.server.status import REQUEST_ID
from lazyneuron.server.tracing import Tracing

__all__ = ["Observer", "headers_of"]

_access = logging.getLogger("lazyneuron.access")

_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=/-]{0,127}")
_FAULTS = {
    "INTERNAL",
    "UNKNOWN",
    "UNAVAILABLE",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "DATA_LOSS",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
}
"""What an operator wants to see: the server's faults, its load, and who is not let in."""
_FAILED = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
_SHOWN = 300  # characters of an error's text: a client's own values are in it


class Observer:
    """Begins and ends calls.

    Parameters
    ----------
    metrics
        Where refusals are counted.
    config
        Which calls get a line in the log.
    tracing
        None: no tracing.
    """

    def __init__(self, metrics: Metrics, config: LogConfig, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._config = config
        self._tracing = tracing
        self._rate = PerSecond(config.access_per_second)
        self.unlogged = 0
        """Lines that were left out because a second had too many."""

    def begin(self, method: str, headers: Mapping[str, Any], client: str) -> Call:
        """Return a new call: its id is the caller's, if that is sane; its client the subject, if there is one.

        Parameters
        ----------
        method
            `/package.Service/Method`, or an HTTP method and path without anything of the client's own in it.
        headers
            The metadata or the headers, with names in lower case.
        client
            The host that calls.
        """
        subject = current_subject.get()
        wanted = headers.get(REQUEST_ID)
        name = wanted if isinstance(wanted, str) and _SANE.fullmatch(wanted) is not None else fresh_id()
        # Nothing is taken over: what runs here may have answered another request on the same connection.
        call = Call(method, name, client=client if subject is None else subject.name, span=None, tracing=self._tracing)
        if self._tracing is not None:
            self._tracing.begin(call, headers)
        return call

    def end(self, call: Call, code: str) -> None:
        """Close the call's span and write its line, if it gets one."""
        if call.span is not None and self._tracing is not None:
            self._tracing.end(call, code, failed=code in _FAILED)
        if self._config.access == "none":
            return
        fault = code in _FAULTS
        if not fault and (self._config.access == "errors" or random.random() >= self._config.access_sample):  # noqa: S311  a sample
            return
        if not self._rate.take():
            self.unlogged += 1
        else:
            _access.log(logging.WARNING if fault else logging.INFO, "answered", extra=_fields(call, code))

    def refused(self, call: Call, code: str, error: LazyneuronError) -> None:
        """Count a call that was not let in, and end it."""
        call.error = str(error)
        if isinstance(error, UnauthenticatedError):
            self._metrics.auth_failure(error.reason)
        elif isinstance(error, PermissionDeniedError):
            self._metrics.auth_failure("forbidden")
        self.end(call, code)


def headers_of(metadata: Iterable[tuple[str, Any]] | None) -> dict[str, Any]:
    """Return a gRPC call's metadata by name; of one that stands there twice the last."""
    return {key: value for key, value in metadata or ()}  # noqa: C416  grpc's pairs are a type of their own


def _fields(call: Call, code: str) -> dict[str, Any]:
    model, version = (call.model.name, call.model.version) if call.model is not None else (None, None)
    ran = call.batch_requests > 0
    return {
        "request_id": call.id,
        "method": call.method,
        "model": model,
        "version": version,
        "client": call.client,
        "code": code,
        "seconds": round(time.monotonic() - call.started, 6),
        "queue_seconds": round(call.queue_seconds, 6) if ran else None,
        "inference_seconds": round(call.inference_seconds, 6) if ran else None,
        "batch_requests": call.batch_requests or None,
        "error": call.error[:_SHOWN] or None,
        "trace_id": f"{call.span.get_span_context().trace_id:032x}" if call.span is not None else None,
    }
