"""A plain HTTP client: what went over the wire, with nothing made of it."""

import http.client
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HttpAnswer:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The words of an answer that is an error and nothing else."""
        assert self.status >= 400, self
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        words: str = self.json["error"]
        return words


def ask(address: str, method: str, path: str, body: object = None, **headers: str) -> HttpAnswer:
    """Send one request; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return HttpAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()
