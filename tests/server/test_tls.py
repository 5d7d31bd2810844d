"""TLS on both ports: who is trusted, what is said when files are wrong, and certificates that change under clients."""

import logging
import shutil
import ssl
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from lazyneuron import Client, Credentials
from lazyneuron.engine.errors import ConfigurationError, ServingError
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.server.config import TlsConfig
from lazyneuron.server.tls import ServerTls
from tests.support.certificates import Authority
from tests.support.server import ServerProcess, serving, until

X = {"x": np.ones((1, 16), np.float32)}


def settings(certificate: Path, key: Path, ca: Path | None, more: str = "") -> str:
    client_ca = f'client_ca = "{ca}"\n' if ca is not None else ""
    files = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n{client_ca}'
    return f'{files}reload_seconds = 0.05\n{more}[log]\naccess = "all"\n'


def trusting(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


@dataclass
class Mutual:
    server: ServerProcess
    authority: Authority
    pair: tuple[Path, Path]

    def client(self, pair: tuple[Path, Path] | None, authority: Authority | None = None) -> Client:
        certificate, key = pair or (None, None)
        trusted = (authority or self.authority).file
        return Client(self.server.grpc, credentials=Credentials(ca=trusted, certificate=certificate, key=key))


@pytest.fixture(scope="module")
def mutual(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mutual]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    certificate, key = authority.issue("server")
    admins = '[auth]\nadmin_certificates = ["ops"]\n'
    with serving(repository, folder / "log", settings(certificate, key, authority.file, admins)) as server:
        pair = authority.issue("alice")
        server.tls = trusting(authority, pair)
        yield Mutual(server, authority, pair)
        assert "Traceback" not in server.log.read_text()


def test_a_client_with_a_certificate_is_let_in(mutual: Mutual) -> None:
    with mutual.client(mutual.pair) as client:
        assert client.predict("vector", X, timeout=20).model_name == "vector"
    assert mutual.server.scheme == "https"
    assert mutual.server.get("/healthz") == "live\n"
    assert mutual.server.total("lazyneuron_requests_total", code="OK", model="vector") >= 1
    until(lambda: "client=alice" in mutual.server.log.read_text(), "the certificate's name is the client's")


def test_predict_on_the_command_line(mutual: Mutual, tmp_path: Path) -> None:
    from lazyneuron.cli.predict import command

    np.save(tmp_path / "x.npy", X["x"])
    where = ["vector", "--input", f"x={tmp_path / 'x.npy'}", "--address", mutual.server.grpc, "--json"]
    certificate, key = map(str, mutual.pair)
    done = CliRunner().invoke(
        command, [*where, "--ca", str(mutual.authority.file), "--cert", certificate, "--key", key]
    )
    assert done.exit_code == 0, done.output
    assert '"model": "vector"' in done.stdout
    assert "of --cert and --key one is given" in CliRunner().invoke(command, [*where, "--cert", certificate]).output


@pytest.mark.parametrize("who", ["nobody", "a stranger", "a stranger's server"])
def test_a_client_without_the_right_certificate_is_refused(mutual: Mutual, tmp_path: Path, who: str) -> None:
    stranger = Authority(tmp_path, "stranger")
    pair = None if who == "nobody" else stranger.issue("mallory") if who == "a stranger" else mutual.pair
    trusted = stranger if who == "a stranger's server" else mutual.authority
    with mutual.client(pair, trusted) as client, pytest.raises(ServingError, match="no server answers"):
        client.predict("vector", X, timeout=20)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"https://{mutual.server.http}/healthz", timeout=10, context=trusting(trusted, pair))


def test_a_client_without_tls_is_refused(mutual: Mutual) -> None:
    with Client(mutual.server.grpc) as client, pytest.raises(ServingError):
        client.predict("vector", X, timeout=20)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{mutual.server.http}/healthz", timeout=10)


def test_an_old_tls_is_refused(mutual: Mutual) -> None:
    context = trusting(mutual.authority, mutual.pair)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"https://{mutual.server.http}/healthz", timeout=10, context=context)


def test_admins_are_told_by_their_certificates(mutual: Mutual) -> None:
    def index(pair: tuple[Path, Path]) -> object:
        certificate, key = pair
        options = Credentials(ca=mutual.authority.file, certificate=certificate, key=key)
        with options.channel(mutual.server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            return stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=20)

    with pytest.raises(grpc.RpcError) as caught:
        index(mutual.pair)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "alice has the role client; expected admin" in caught.value.details()
    assert index(mutual.authority.issue("ops")) is not None


def test_the_http_port_may_do_without_client_certificates(repository: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    text = settings(*authority.issue("server"), authority.file, "http_client_certificates = false\n")
    with serving(repository, tmp_path / "log", text) as server:
        server.tls = trusting(authority)
        assert server.get("/healthz") == "live\n"
        with pytest.raises(urllib.error.HTTPError, match="401"):  # who shows none is nobody
            server.get("/metrics")
        with Client(server.grpc, credentials=Credentials(ca=authority.file)) as client, pytest.raises(ServingError):
            client.predict("vector", X, timeout=20)


def test_certificates_are_replaced_under_running_clients(repository: Path, tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "1"), Authority(tmp_path / "2")
    served = tmp_path / "server.crt", tmp_path / "server.key"
    for source, target in zip(first.issue("server"), served, strict=True):
        shutil.copy(source, target)
    failures: list[Exception] = []
    done = threading.Event()
    answered = 0

    def call_on(client: Client) -> None:
        nonlocal answered
        while not done.is_set():
            try:
                client.predict("vector", X, timeout=20)
                answered += 1
            except Exception as error:  # noqa: BLE001  kept for the assertion
                failures.append(error)

    with (
        serving(repository, tmp_path / "log", settings(*served, None)) as server,
        Client(server.grpc, credentials=Credentials(ca=first.file)) as old,
    ):
        server.tls = trusting(first)
        threads = [threading.Thread(target=call_on, args=(old,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: answered > 10, "calls are answered")
        # Half of a rotation: the key is not the certificate's. The old pair stays, and new connections work.
        new = second.issue("server")
        shutil.copy(new[0], served[0])
        until(lambda: "certificate: the new files are not used" in server.log.read_text(), "it is told")
        assert f"tls.key: {served[1]} is not the key of tls.certificate {served[0]}" in server.log.read_text()
        assert server.get("/healthz") == "live\n"
        # The other half.
        shutil.copy(new[1], served[1])
        until(lambda: "certificate: changed, and in use" in server.log.read_text(), "it is taken up")
        with pytest.raises(urllib.error.URLError):
            server.get("/healthz")
        server.tls = trusting(second)
        assert server.total("lazyneuron_reloads_total", what="certificate", outcome="used") == 1
        with Client(server.grpc, credentials=Credentials(ca=second.file)) as client:
            client.predict("vector", X, timeout=20)
        with Client(server.grpc, credentials=Credentials(ca=first.file)) as client, pytest.raises(ServingError):
            client.predict("vector", X, timeout=20)
        seen = answered
        until(lambda: answered > seen + 10, "open connections go on")
        done.set()
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert server.terminate() == 0


def _foreign_key(folder: Path, config: dict[str, Path]) -> None:
    config["key"] = Authority(folder / "other").issue("other")[1]


def _locked_key(folder: Path, config: dict[str, Path]) -> None:
    config["certificate"], config["key"] = Authority(folder).issue("locked", password=b"secret")


def _garbled(name: str) -> Callable[[Path, dict[str, Path]], None]:
    def garble(folder: Path, config: dict[str, Path]) -> None:
        lines = config[name].read_text().splitlines()
        lines[1] = "!" * len(lines[1])
        config[name].write_text("\n".join(lines))

    return garble


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_foreign_key, r"tls.key: \S+ is not the key of tls.certificate \S+; expected its own"),
        (_locked_key, r"tls.key: \S+ is locked with a passphrase; expected a key without one"),
        (
            lambda f, c: c["key"].unlink(),
            r"tls.key: \S+ cannot be read \(No such file or directory\); expected a private",
        ),
        (
            lambda f, c: c["certificate"].write_text("x"),
            r"tls.certificate: \S+ holds no certificate; expected one in PEM",
        ),
        (lambda f, c: c.update(key=c["certificate"]), r"tls.key: \S+ holds no private key; expected one in PEM"),
        (_garbled("certificate"), r"tls.certificate \S+ with tls.key \S+ cannot be used \(.+\); expected"),
        (_garbled("key"), r"tls.certificate \S+ with tls.key \S+ cannot be used \(.+\); expected"),
        (_garbled("client_ca"), r"tls.client_ca: \S+ cannot be used \(.+\); expected certificates in PEM"),
    ],
)
def test_wrong_files_are_told_in_words(
    tmp_path: Path, damage: Callable[[Path, dict[str, Path]], None], says: str
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    config = {"certificate": certificate, "key": key, "client_ca": authority.file}
    damage(tmp_path, config)
    with pytest.raises(ConfigurationError, match=f"^{says}") as caught:
        ServerTls(TlsConfig(**config))
    assert "\n" not in str(caught.value)


def test_a_wrong_file_stops_the_start_with_one_line(repository: Path, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    key.write_text("nothing")
    with pytest.raises(AssertionError, match=r"error: tls.key: .* holds no private key; expected one in PEM\n$"):
        serving(repository, tmp_path / "log", settings(certificate, key, None)).__enter__()


def test_a_key_that_others_may_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    with caplog.at_level(logging.WARNING):
        ServerTls(TlsConfig(certificate=certificate, key=key))
        assert caplog.text == ""
        key.chmod(0o644)
        ServerTls(TlsConfig(certificate=certificate, key=key))
    assert f"tls.key {key} is open to other users (mode 644); chmod 600 or 640" in caplog.text


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"certificate": "x"}, "certificate and key one is given"),
        ({"ca": "/nowhere/ca.pem"}, "ca: /nowhere/ca.pem cannot be read"),
        ({"token": ""}, "the token is empty"),
        ({"token": "geheim\n"}, "characters that no header can carry"),
    ],
)
def test_wrong_credentials_are_told_in_words(files: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Credentials(**files)  # type: ignore[arg-type]
