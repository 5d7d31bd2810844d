"""A real Prometheus, from Debian's package, that reads one server at short intervals."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from deploy.monitoring.asking import Api, AskError
from tests.support.server import until

MISSING = "not here: apt-get install prometheus"


def require(program: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip the test."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is {MISSING}")
    return path


@contextmanager
def watching(target: str, folder: Path, rules: str, *, scrape: str) -> Iterator[Api]:
    """Run Prometheus on a server at `HOST:PORT`, with rules (YAML); `scrape` is also how often these are evaluated."""
    program = require("prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yaml").write_text(rules)
    config = {
        "global": {"scrape_interval": scrape, "scrape_timeout": scrape, "evaluation_interval": scrape},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "lazyneuron", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={address}", "--enable-feature=exemplar-storage", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    api = Api(f"http://{address}")

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return bool(api.now("vector(1)"))
        except AskError:
            return False

    try:
        until(ready, "Prometheus answers", 60)
        yield api
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
