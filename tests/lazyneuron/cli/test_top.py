"""`lazyneuron top` against real servers, and against what is none."""

import fcntl
import http.server
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyneuron.cli import main
from lazyneuron.client import Client
from lazyneuron.scrape import metrics_url, scrape
from tests.support.artifacts import write_vector_model
from tests.support.certificates import Authority
from tests.support.server import ServerProcess, serving, until

X = {"x": np.random.default_rng(3).normal(size=(8, 16)).astype(np.float32)}


def top(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["top", *map(str, arguments)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@contextmanager
def traffic(server: ServerProcess, name: str) -> Iterator[None]:
    stop = threading.Event()

    def call() -> None:
        with Client(server.grpc) as client:
            while not stop.is_set():
                client.predict(name, X, outputs=False)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        until(lambda: server.total("lazyneuron_requests_total", model=name, code="OK") > 0, "a first answer")
        yield
    finally:
        stop.set()
        thread.join()


def test_json_is_what_the_metrics_say(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    with traffic(server, "vector"):
        code, out, err = top(capsys, server.http, "--json", "--interval", 1)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["url"] == f"http://{server.http}/metrics"
    assert document["build"]["version"]
    assert 0.9 < document["window_seconds"] < 60
    models = {(model["model"], model["version"]): model for model in document["models"]}
    assert [*models] == [("image", "1"), ("slow", "1"), ("text", "1"), ("vector", "3")]
    busy = models["vector", "3"]
    assert busy["requests_per_second"] > 0
    assert busy["tokens_per_second"] == pytest.approx(8 * busy["requests_per_second"], rel=0.5)
    assert 0 < busy["latency_p50_seconds"] <= busy["latency_p99_seconds"] <= 10
    assert (busy["errors_per_second"], busy["padding"]) == ({}, 0)
    # The same input each time: the density is known, whatever the window.
    with Client(server.grpc) as client:
        alone = client.predict("vector", X).sparsity
    assert [block["density"] for block in busy["blocks"]] == [pytest.approx(b.density) for b in alone.blocks]
    assert busy["saved"]["share"] == pytest.approx(alone.flops_saved / alone.flops_dense)
    assert busy["saved"]["seconds"] is not None
    assert models["slow", "1"]["saved"]["share"] is None


def test_once_prints_a_card_for_each_model(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    with traffic(server, "vector"):
        code, out, err = top(capsys, f"http://{server.http}/", "--once", "--interval", 0.5)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    for model in ("image version 1", "slow version 1", "text version 1", "vector version 3"):
        assert model in out
    card = out[out.index("vector version 3") :]
    assert "of the MLP's FLOPs saved" in card
    assert "by estimate" in card
    assert "exported 10.00 %" in card
    assert "█" in card


def test_an_old_encoding_loses_signs_and_nothing_else(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "lazyneuron", "top", server.http, "--once", "--interval", "0.1"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "vector version 3" in done.stdout.decode("latin-1")


class Screen:
    """A `lazyneuron top` in a terminal of its own; what it wrote since the last look."""

    def __init__(self, *arguments: object) -> None:
        self.end, theirs = pty.openpty()
        self.resize(40, 120)
        command = [sys.executable, "-m", "lazyneuron", "top", *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
                                        start_new_session=True)  # fmt: skip
        os.close(theirs)
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.end, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.text += data.decode(errors="replace")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shows(self, what: str, seconds: float = 60) -> None:
        try:
            until(lambda: what in self.text, f"{what!r} on the screen", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {self.text[-2000:]!r}") from None

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        os.close(self.end)


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    screens: list[Screen] = []

    def start(*arguments: object) -> Screen:
        screens.append(Screen(*arguments))
        return screens[-1]

    yield start
    for one in screens:
        one.close()


def test_in_a_terminal_it_outlives_resizing_and_a_restart(tmp_path: Path, screen: Callable[..., Screen]) -> None:
    write_vector_model(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log") as server:
        port = int(server.http.rpartition(":")[2])
        shown = screen(server.http, "--interval", 0.2)
        shown.shows("vector version 1")
        shown.shows("nothing ran")
        with Client(server.grpc) as client:
            client.predict("vector", X)
        shown.shows("FLOPs saved")
        for rows, columns in ((10, 40), (3, 12), (60, 200)):
            shown.resize(rows, columns)
            shown.text = ""
            shown.shows("lazyneuron")
        server.terminate()
    shown.shows("not up to date")
    with serving(tmp_path / "models", tmp_path / "log2", http_port=port):
        shown.text = ""
        shown.shows("has been started again")
    shown.process.send_signal(signal.SIGINT)
    assert shown.process.wait(30) == 0
    shown.shows("\x1b[?1049l", 20)  # the terminal as it was
    assert "Traceback" not in shown.text


def test_sigterm_gives_the_terminal_back(server: ServerProcess, screen: Callable[..., Screen]) -> None:
    shown = screen(server.http, "--interval", 0.2)
    shown.shows("image version 1")  # the others may not fit
    shown.process.terminate()
    assert shown.process.wait(30) == 128 + signal.SIGTERM
    shown.shows("\x1b[?1049l", 20)  # the terminal as it was


def test_a_pipe_gets_plain_text_each_time_until_it_is_closed(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "lazyneuron", "top", server.http, "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = 0
        while seen < 2:
            seen += process.stdout.readline().startswith("lazyneuron ")
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_tls_and_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.issue("server")
    (tmp_path / "tokens").write_text("alice:client:correct-horse-battery-staple-42\n")
    (tmp_path / "tokens").chmod(0o600)
    (tmp_path / "token").write_text("correct-horse-battery-staple-42\n")
    (tmp_path / "wrong").write_text("another-token-that-nobody-has-seen\n")
    config = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n[auth]\ntokens_file = "{tmp_path / "tokens"}"\n'
    write_vector_model(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log", config) as server:
        ca, token = ("--ca", authority.file), ("--token-file", tmp_path / "token")
        code, out, err = top(capsys, server.http, *ca, *token, "--json", "--interval", 0.1)
        assert (code, err) == (0, "")
        assert json.loads(out)["models"][0]["model"] == "vector"
        for arguments, says in (
            ((server.http, *ca), "the server wants to know who asks (401); give --token-file"),
            ((server.http, *ca, "--token-file", tmp_path / "wrong"), "(401)"),
            ((server.http, "--tls", *token), "certificate is not trusted"),
            ((f"http://{server.http}", *ca), "expected https"),
            ((f"http://{server.http}", *token), "cannot be read"),
            ((server.http, "--ca", tmp_path / "none"), "cannot be read"),
        ):
            code, out, err = top(capsys, *arguments, "--once")
            assert (code, out) == (1, ""), err
            assert says in err
            assert err.startswith("error: ")
            assert err.count("\n") == 1
            assert "correct-horse" not in err


@pytest.mark.parametrize("arguments", [("--once",), ("--json",), ()])
def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = top(capsys, "127.0.0.1:1", *arguments)
    assert (code, out) == (1, "")
    assert err == "error: http://127.0.0.1:1/metrics: cannot be reached (Connection refused)\n"


def test_the_grpc_port_is_not_taken_for_it(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = top(capsys, server.grpc, "--once")
    assert (code, out) == (1, "")
    assert "expected a server's HTTP port" in err
    assert err.isprintable() or err.rstrip("\n").isprintable()


def test_a_token_goes_to_no_other_machine_in_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("correct-horse-battery-staple-42\n")
    code, _, err = top(capsys, "http://192.0.2.1", "--token-file", tmp_path / "token", "--once")
    assert code == 1
    assert "the token would be sent in clear" in err


@contextmanager
def strange(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """A server that answers this to everything; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for item in headers.items():
                self.send_header(*item)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as stranger:
        threading.Thread(target=stranger.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{stranger.server_port}"
        stranger.shutdown()


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "page": (200, {}, b"<!doctype html><title>a page</title>{"),
    "other": (200, {}, b"# TYPE up gauge\nup 1\n"),
    "binary": (200, {}, bytes(range(256))),
    "nothing": (200, {}, b""),
    "elsewhere": (302, {"Location": "http://127.0.0.1:1/"}, b""),
    "fault": (500, {}, b"no"),
    "forbidden": (403, {}, b"no"),
}


@pytest.mark.parametrize(("what", "says"), [
    ("page", "no metrics of lazyneuron's"),
    ("other", "no metrics of lazyneuron's"),
    ("binary", "no metrics of lazyneuron's"),
    ("nothing", "no metrics of lazyneuron's"),
    ("elsewhere", "not followed"),
    ("fault", "HTTP status 500"),
    ("forbidden", "may not read the metrics"),
])  # fmt: skip
def test_what_is_no_server_of_ours_is_told(what: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with strange(*ANSWERS[what]) as address:
        code, out, err = top(capsys, address, "--once")
    assert (code, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_server_s_words_do_not_control_the_terminal() -> None:
    answer = b'# TYPE lazyneuron_model_info gauge\nlazyneuron_model_info{model="a\x1b[2Jb",version="1\x07"} 1\n'
    with strange(200, {}, answer) as address:
        ((labels, _),) = scrape(metrics_url(address)).of("model_info")
    assert labels == {"model": "a?[2Jb", "version": "1?"}


def test_no_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vector_model(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log") as server:
        import grpc

        from lazyneuron.protocol import open_inference_pb2 as pb
        from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub

        with grpc.insecure_channel(server.grpc) as channel:
            GRPCInferenceServiceStub(channel).RepositoryModelUnload(
                pb.RepositoryModelUnloadRequest(model_name="vector"), timeout=60
            )
        code, out, _ = top(capsys, server.http, "--once", "--interval", 0.1)
    assert code == 0
    assert "no model is loaded" in out
