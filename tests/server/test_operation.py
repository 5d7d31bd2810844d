"""What a service manager and an operator do to a running server: signals, notices, settings shown and read again."""

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lazyneuron import Client
from lazyneuron.server import notify as notices
from tests.support.server import serving, until

X = {"x": np.ones((1, 16), np.float32)}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def test_systemd_is_told_what_happens(repository: Path, tmp_path: Path, manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}

    def wait_for(text: str) -> str:
        while text not in (notice := manager.recv(4096).decode().split("\n")):
            pass
        return "\n".join(notice)

    with serving(repository, tmp_path / "log", environment=environment) as server:
        assert f"STATUS=gRPC on {server.grpc}, HTTP on http://{server.http}/" in wait_for("READY=1")
        wait_for("WATCHDOG=1")
        wait_for("WATCHDOG=1")
        server.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in wait_for("RELOADING=1")
        wait_for("READY=1")
        server.process.send_signal(signal.SIGTERM)
        wait_for("STOPPING=1")
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("address", ["", "nowhere", "/nowhere/at/all", "@nobody-listens-here"])
def test_no_manager_is_no_fault(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notices.notify("READY=1")


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    assert notices.watchdog_seconds() == 2.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert notices.watchdog_seconds() is None


def test_sighup_reads_the_log_s_level_again(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(repository, log, '[log]\naccess = "all"\nlevel = "error"\n') as server, Client(server.grpc) as client:
        client.predict("vector", X, timeout=20)
        log.with_suffix(".toml").write_text('grace_seconds = 1.0\n[log]\naccess = "all"\nlevel = "info"\n')
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "settings other than log.level changed; they need a restart" in log.read_text(), "it is told")
        assert "lazyneuron.access" not in log.read_text()
        client.predict("vector", X, timeout=20)
        until(lambda: "lazyneuron.access" in log.read_text(), "the new level holds")
        log.with_suffix(".toml").write_text("[log]\nlevel = 3\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the settings stay as they are: " in log.read_text(), "a broken file is told")
        assert "log.level: Input should be 'debug', 'info', 'warning' or 'error' (got 3)" in log.read_text()
        client.predict("vector", X, timeout=20)
        assert server.terminate() == 0


def test_sighup_while_models_load_does_not_end_the_process(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--grpc-port", "0", "--http-port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    # From the first line of the log on, the signal is handled.
    until(lambda: "loaded" in (tmp_path / "log").read_text() or process.poll() is not None, "it loads")
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline().startswith("ready: ")
    process.terminate()
    assert process.wait(20) == 0


def test_signals_while_models_load(repository: Path, tmp_path: Path, manager: socket.socket) -> None:
    command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--grpc-port", "0", "--http-port", "0"]
    command += ["--auto-tune", "--set", "tuning_seconds=60"]
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000", "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True)
    assert manager.recv(4096) == b"WATCHDOG=1"  # from now on signals are handled
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", None)
    assert process.returncode == 0
    notices = []
    while not notices or not notices[-1].startswith(b"STOPPING=1"):
        notices.append(manager.recv(4096))
    assert set(notices[:-1]) == {b"WATCHDOG=1"}


def test_print_config_is_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "se\nrve.toml"  # a line of its own would be no comment
    file.write_text('threads = 2\n[auth]\nadmin_certificates = ["ops", "Jürgen \\"J\\""]\n')
    environment = {
        **os.environ,
        "LAZYNEURON_HTTP_PORT": "9000",
        "LAZYNEURON_TRACING__ENDPOINT": "http://u:geheim@h:1/x",
    }
    command = [sys.executable, "-m", "lazyneuron", "serve", "--print-config", "--config"]
    arguments = ["--grpc-port", "7000", "--set", "queue.max_requests=7"]
    first = subprocess.run(
        [*command, str(file), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    sources = {
        line.split(" =")[0].strip("# "): line.rpartition("# ")[2] for line in first.splitlines() if "  # " in line
    }
    assert sources["threads"] == sources["admin_certificates"] == str(file).replace("\n", "?")
    assert sources["http_port"] == "LAZYNEURON_HTTP_PORT"
    assert sources["grpc_port"] == "--grpc-port"
    assert "max_requests = 7                                  # --set queue.max_requests" in first
    assert sources["host"] == "default"
    assert "geheim" not in first
    again = tmp_path / "again.toml"
    again.write_text(first)
    second = subprocess.run([*command, str(again)], capture_output=True, text=True, timeout=60, check=True).stdout
    assert tomllib.loads(second) == tomllib.loads(first)
