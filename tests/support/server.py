"""A real server process, and what Prometheus would read from it."""

import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

_READY = re.compile(r"ready: gRPC on (?P<grpc>\S+), metrics and health on https?://(?P<http>\S+)/")


def until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class ServerProcess:
    """`python -m lazyneuron serve` on free ports of the loopback.

    Attributes
    ----------
    grpc, http
        `HOST:PORT`.
    headers, tls
        What `get` sends, and how.
    """

    def __init__(
        self,
        repository: Path,
        log: Path,
        settings: str = "",
        *,
        grpc_port: int = 0,
        http_port: int = 0,
        environment: Mapping[str, str] | None = None,
        stderr: int | IO[str] | None = None,
    ) -> None:
        config = log.with_suffix(".toml")
        config.write_text(settings)
        self.log = log
        command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--config", str(config)]
        command += ["--grpc-port", str(grpc_port), "--http-port", str(http_port)]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors if stderr is None else stderr,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        ready = _READY.match(line)
        if ready is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no ready line but {line!r}; the log says {log.read_text()}")
        self.grpc, self.http = ready["grpc"], ready["http"]
        self.scheme = "https" if "https://" in line else "http"
        self.headers: dict[str, str] = {}
        self.tls: ssl.SSLContext | None = None

    def get(self, path: str) -> str:
        request = urllib.request.Request(f"{self.scheme}://{self.http}{path}", headers=self.headers)
        with urllib.request.urlopen(request, timeout=10, context=self.tls) as response:
            return response.read().decode()

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels."""
        wanted = labels.items()
        return sum(value for (sample, have), value in self.metrics().items() if sample == name and wanted <= have)

    def terminate(self, timeout: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def serving(
    repository: Path,
    log: Path,
    settings: str = "",
    *,
    grpc_port: int = 0,
    http_port: int = 0,
    environment: Mapping[str, str] | None = None,
    stderr: int | IO[str] | None = None,
) -> Iterator[ServerProcess]:
    server = ServerProcess(
        repository, log, settings, grpc_port=grpc_port, http_port=http_port, environment=environment, stderr=stderr
    )
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()
