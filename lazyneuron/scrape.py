"""Reading a server's `/metrics`: one HTTP request, and its samples by name and labels."""

import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from prometheus_client.parser import text_string_to_metric_families

from lazyneuron.credentials import Credentials
from lazyneuron.engine.errors import ConfigurationError, LazyneuronError, one_line

__all__ = ["Labels", "ScrapeError", "Snapshot", "metrics_url", "scrape"]

Labels = frozenset[tuple[str, str]]
_DEFAULT_PORT = 8002
_MOST_BYTES = 64 * 2**20
_MARK = "lazyneuron_"


class ScrapeError(LazyneuronError):
    """A server's metrics cannot be read."""


@dataclass(frozen=True)
class Snapshot:
    """What a server's metrics were at a moment.

    Attributes
    ----------
    at
        When it was taken, on the clock of `time.monotonic`.
    wall
        The same, in Unix seconds.
    samples
        The values by name and labels.
    """

    at: float
    wall: float
    samples: Mapping[str, Mapping[Labels, float]]

    def of(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Give the samples of a name that have these labels; `lazyneuron_` may be left out of the name."""
        wanted = labels.items()
        found = self.samples.get(f"{_MARK}{name}") or self.samples.get(name) or {}
        return ((dict(have), value) for have, value in found.items() if wanted <= have)

    def one(self, name: str, **labels: str) -> float | None:
        """Return the first of these samples' values; None where there is none."""
        return next((value for _, value in self.of(name, **labels)), None)


def metrics_url(address: str, *, secure: bool = False) -> str:
    """Return the URL of a server's metrics, from `HOST`, `HOST:PORT` or a URL with or without the path.

    Parameters
    ----------
    secure
        Whether HTTPS is meant where the address says neither.

    Raises
    ------
    ConfigurationError
        If it is none of these.
    """
    text = address if "://" in address else f"{'https' if secure else 'http'}://{address}"
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in {"http", "https"} or parts.username is not None or not text.isascii():
        raise ConfigurationError(f"{address!r}: expected HOST:PORT or http(s)://HOST:PORT of a server's HTTP port")
    if secure and parts.scheme == "http":
        raise ConfigurationError(f"{address}: TLS is asked for and the address says http; expected https")
    name = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    # A URL names its port, or means its scheme's; a bare host means ours.
    given = port or (None if "://" in address else _DEFAULT_PORT)
    path = path if path.endswith("/metrics") else f"{path}/metrics"
    return f"{parts.scheme}://{name}{'' if given is None else f':{given}'}{path}"


def scrape(url: str, credentials: Credentials | None = None, *, timeout: float = 5.0) -> Snapshot:
    """Read a server's metrics.

    Parameters
    ----------
    url
        As `metrics_url` gives it.
    credentials
        TLS and token; None: neither is needed.
    timeout
        Seconds without a byte after which the server counts as away.

    Raises
    ------
    ScrapeError
        If the server is not reached, refuses, or answers with something else.
    ConfigurationError
        If a certificate cannot be used, or a token would go to another machine in clear.
    """
    context, headers = _dressed(url, credentials)
    request = urllib.request.Request(url, headers={"Accept": "text/plain", **headers})  # noqa: S310  http or https
    # No proxy, and no redirect: a token is for this server alone.
    handlers: list[Any] = [urllib.request.ProxyHandler({}), _NoRedirect()]
    opener = urllib.request.build_opener(*handlers, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=timeout) as answer:
            content = answer.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise ScrapeError(f"{url}: {_refusal(error.code)}") from None
    except urllib.error.URLError as error:
        raise ScrapeError(f"{url}: cannot be reached ({_reason(error.reason)})") from None
    except (OSError, http.client.HTTPException) as error:
        raise ScrapeError(f"{url}: cannot be read ({_reason(error)}); expected a server's HTTP port") from None
    if len(content) > _MOST_BYTES:
        raise ScrapeError(f"{url}: more than {_MOST_BYTES} bytes; expected a server's metrics")
    return Snapshot(time.monotonic(), time.time(), _parsed(url, content))


def _parsed(url: str, content: bytes) -> Mapping[str, Mapping[Labels, float]]:
    samples: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(content.decode("utf-8")):
            for sample in family.samples:
                labels = frozenset((name, _printable(value)) for name, value in sample.labels.items())
                samples.setdefault(sample.name, {})[labels] = sample.value
    except (ValueError, IndexError, KeyError, AttributeError):  # whatever the parser makes of a page
        samples = {}
    if not any(name.startswith(_MARK) for name in samples):
        raise ScrapeError(f"{url}: no metrics of lazyneuron's in the answer; expected a server's HTTP port")
    return samples


def _printable(text: str) -> str:
    """Return a text without what would control a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _dressed(url: str, credentials: Credentials | None) -> tuple[ssl.SSLContext | None, dict[str, str]]:
    if credentials is None:
        return None, {}
    parts = urllib.parse.urlsplit(url)
    address = f"[{parts.hostname}]:{parts.port or 0}"
    return credentials.ssl_context(), credentials.headers(address, secure=parts.scheme == "https")


def _refusal(status: int) -> str:
    if status == 401:
        return "the server wants to know who asks (401); give --token-file, or --cert and --key"
    if status == 403:
        return "the caller may not read the metrics (403)"
    if 300 <= status < 400:
        return f"the answer leads elsewhere ({status}), which is not followed; expected a server's HTTP port"
    return f"HTTP status {status}; expected a server's metrics"


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
        return "the answer is no HTTP"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002  urllib's signature
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: http.client.HTTPMessage,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> urllib.request.Request | None:
        """Follow none."""
        return None
