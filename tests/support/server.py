"""A real server process, and what Prometheus would read from it."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

_READY = re.compile(r"ready: gRPC on (?P<grpc>\S+), metrics and health on http://(?P<http>\S+)/")


class ServerProcess:
    """`python -m lazyneuron serve` on free ports of the loopback.

    Attributes
    ----------
    grpc, http
        `HOST:PORT`.
    """

    def __init__(self, repository: Path, log: Path, settings: str = "") -> None:
        config = log.with_suffix(".toml")
        config.write_text(settings)
        self.log = log
        command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--config", str(config)]
        command += ["--grpc-port", "0", "--http-port", "0"]
        with log.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        ready = _READY.match(line)
        if ready is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no ready line but {line!r}; the log says {log.read_text()}")
        self.grpc, self.http = ready["grpc"], ready["http"]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as response:
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
def serving(repository: Path, log: Path, settings: str = "") -> Iterator[ServerProcess]:
    server = ServerProcess(repository, log, settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()
