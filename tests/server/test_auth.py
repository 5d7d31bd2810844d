"""Tokens: who is let in, what each may do, and tokens that change while the server runs."""

import hashlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from lazyneuron import Client, Credentials
from lazyneuron.engine.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.server.auth import Authenticator, add_line, line_for
from lazyneuron.server.config import AuthConfig
from tests.support.server import ServerProcess, serving, until

ALICE, OPS = "alice-token-0123456789", "ops-token-0123456789"
X = {"x": np.ones((1, 16), np.float32)}


def settings(tokens: Path, more: str = "") -> str:
    return f'[auth]\ntokens_file = "{tokens}"\n{more}[tls]\nreload_seconds = 0.05\n[log]\naccess = "all"\n'


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("auth") / "tokens"
    file.write_text(f"# who may call\n{line_for('alice', 'client', ALICE)}\n\nops:admin:{OPS}\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def guarded(repository: Path, tokens: Path) -> Iterator[ServerProcess]:
    with serving(repository, tokens.with_name("server.log"), settings(tokens)) as server:
        server.headers = {"authorization": f"Bearer {OPS}"}
        yield server
        log = server.log.read_text()
        assert ALICE not in log
        assert OPS not in log


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def status(server: ServerProcess, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{server.http}{path}", headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_known_token_is_let_in(guarded: ServerProcess) -> None:
    with Client(guarded.grpc, credentials=Credentials(token=ALICE)) as client:
        assert client.predict("vector", X).model_name == "vector"
    until(lambda: "client=alice" in guarded.log.read_text(), "the log says who called")


@pytest.mark.parametrize(
    ("metadata", "reason", "says"),
    [
        ((), "missing", "no token; expected the header `authorization: Bearer TOKEN`"),
        (
            (("authorization", "Bearer wrong-token-0123456789"),),
            "unknown",
            "the token is not one that this server knows",
        ),
        ((("x-api-key", "wrong-token-0123456789"),), "unknown", "the token is not one that this server knows"),
        ((("authorization", "Basic abc"),), "malformed", "expected `Bearer TOKEN`"),
        ((("authorization", "Bearer "),), "malformed", "malformed"),
        ((("authorization", f"Bearer {ALICE} {OPS}"),), "malformed", "one word of ASCII"),
        ((("authorization", "Bearer " + "x" * 4000),), "malformed", "malformed"),
        # Bearer counts where both are given: a proxy's key must not let a caller in under another name.
        ((("authorization", "Bearer wrong-token-0123456789"), ("x-api-key", ALICE)), "unknown", "not one"),
        # The hash in the server's file is no token.
        ((("x-api-key", hashlib.sha256(ALICE.encode()).hexdigest()),), "unknown", "not one"),
    ],
)
def test_who_is_not_known_is_refused(
    guarded: ServerProcess, metadata: tuple[tuple[str, str], ...], reason: str, says: str
) -> None:
    before = guarded.total("lazyneuron_auth_failures_total", reason=reason)
    with grpc.insecure_channel(guarded.grpc) as channel:
        predict = channel.unary_unary("/lazyneuron.v1.PredictionService/Predict")
        code, details = refusal(lambda: predict(b"", metadata=metadata, timeout=10))
    assert code == "UNAUTHENTICATED"
    assert says in details
    assert guarded.total("lazyneuron_auth_failures_total", reason=reason) == before + 1
    assert status(guarded, "/", **dict(metadata))[0] == 401


def test_a_refusal_reads_nothing_of_the_request(guarded: ServerProcess) -> None:
    """A message beyond the limit would be RESOURCE_EXHAUSTED had it been received."""
    with grpc.insecure_channel(guarded.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        predict = channel.unary_unary("/lazyneuron.v1.PredictionService/Predict")
        assert refusal(lambda: predict(bytes(70 << 20), timeout=20))[0] == "UNAUTHENTICATED"


def test_health_needs_no_token(guarded: ServerProcess) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert GRPCInferenceServiceStub(channel).ServerReady(oip.ServerReadyRequest(), timeout=10).ready
    assert [status(guarded, path)[0] for path in ("/healthz", "/readyz", "/metrics", "/")] == [200, 200, 401, 401]
    assert status(guarded, "/metrics", **{"x-api-key": ALICE})[0] == 200
    assert json.loads(status(guarded, "/metrics")[1])["error"].startswith("no token; expected the header")


def test_metrics_may_be_open(repository: Path, tokens: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log", settings(tokens, "open_metrics = true\n")) as server:
        assert status(server, "/metrics")[0] == 200
        assert status(server, "/")[0] == 401


def _reflect(channel: grpc.Channel, token: str) -> object:
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    metadata = [("authorization", f"Bearer {token}")]
    return next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, metadata=metadata))


def test_reflection_and_repository_calls_are_the_admins(guarded: ServerProcess) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        index = GRPCInferenceServiceStub(channel).RepositoryIndex
        as_alice, as_ops = ([("authorization", f"bearer {token}")] for token in (ALICE, OPS))
        code, details = refusal(lambda: index(oip.RepositoryIndexRequest(), metadata=as_alice, timeout=10))
        assert code == "PERMISSION_DENIED"
        assert details == "/inference.GRPCInferenceService/RepositoryIndex: alice has the role client; expected admin"
        assert len(index(oip.RepositoryIndexRequest(), metadata=as_ops, timeout=10).models) == 4
        assert refusal(lambda: _reflect(channel, ALICE))[0] == "PERMISSION_DENIED"
        assert _reflect(channel, OPS) is not None
        # Calls that are not there yet are refused before anybody learns that.
        for name in ("RepositoryModelLoad", "TraceSetting", "SystemSharedMemoryRegister"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            assert refusal(lambda call=call: call(b"", metadata=as_alice, timeout=10))[0] == "PERMISSION_DENIED"  # type: ignore[misc]
    code_and_text = status(guarded, "/v2/repository/models/text/unload", "POST", **{"x-api-key": ALICE})
    assert code_and_text[0] == 403
    assert "alice has the role client; expected admin" in code_and_text[1]
    assert status(guarded, "/v2/repository/index", "POST", **{"x-api-key": OPS})[0] != 403
    # However it is spelt: routers take some of these for the path itself.
    for path in (
        "/v2/repository/index%0A",
        "/v2/repositor%79/index",
        "/v2/repository/models/a%0Ab/load",
        "/v2/logging/",
    ):
        assert status(guarded, path, "POST", **{"x-api-key": ALICE})[0] == 403, path


def test_both_can_be_turned_off(repository: Path, tmp_path: Path) -> None:
    with (
        serving(repository, tmp_path / "log", "reflection = false\nrepository_calls = false\n") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        index = GRPCInferenceServiceStub(channel).RepositoryIndex
        assert refusal(lambda: index(oip.RepositoryIndexRequest(), timeout=10)) == (
            "UNIMPLEMENTED",
            "repository calls are turned off (repository_calls = false)",
        )
        assert refusal(lambda: _reflect(channel, ALICE))[0] == "UNIMPLEMENTED"
        assert status(server, "/v2/repository/index", "POST")[0] == 501


def test_tokens_are_replaced_under_running_clients(repository: Path, tmp_path: Path) -> None:
    file, new = tmp_path / "tokens", "alice-token-of-the-year-after"
    file.write_text(line_for("alice", "client", ALICE) + "\n")
    file.chmod(0o644)
    failures: list[Exception] = []
    done = threading.Event()
    with serving(repository, tmp_path / "log", settings(file)) as server:
        server.headers = {"x-api-key": ALICE}
        assert "auth.tokens_file" in server.log.read_text()
        assert "is open to other users (mode 644)" in server.log.read_text()

        def call_on() -> None:
            with Client(server.grpc, credentials=Credentials(token=new)) as client:
                while not done.is_set():
                    try:
                        client.predict("vector", X, timeout=10)
                    except Exception as error:  # noqa: BLE001  kept for the assertion
                        failures.append(error)

        with Client(server.grpc, credentials=Credentials(token=ALICE)) as old:
            old.predict("vector", X)
            # Both are good while clients change over.
            add_line(file, line_for("alice", "client", new))
            until(lambda: _works(server, new), "the new token is good")
            threads = [threading.Thread(target=call_on) for _ in range(4)]
            for thread in threads:
                thread.start()
            old.predict("vector", X)
            # A broken file changes nothing, and is told.
            file.write_text("alice client nonsense\n")
            until(lambda: "tokens: the new files are not used" in server.log.read_text(), "it is told")
            old.predict("vector", X)
            assert server.total("lazyneuron_reloads_total", what="tokens", outcome="refused") >= 1
            # The old one ends.
            beside = tmp_path / "beside"
            beside.write_text(line_for("alice", "client", new) + "\n")
            beside.replace(file)
            server.headers = {"x-api-key": new}
            until(lambda: not _works(server, ALICE), "the old token is no longer good")
            with pytest.raises(UnauthenticatedError, match="not one that this server knows"):
                old.predict("vector", X)
        done.set()
        for thread in threads:
            thread.join(20)
        assert failures == []
        assert ALICE not in server.log.read_text()
        assert "nonsense" not in server.log.read_text()


def _works(server: ServerProcess, token: str) -> bool:
    return status(server, "/", **{"x-api-key": token})[0] == 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no token"),
        ("# nobody\n", "has no token"),
        ("alice\n", "line 1: alice has no role"),
        ("\n:client:0123456789abcdef\n", "line 2: no name before the first colon"),
        ("alice:boss:0123456789abcdef\n", "line 1: alice has no role, which is client or admin"),
        ("alice:client:sec ret 0123456789\n", "line 1: the token is not one word of 16 to 512"),
        ("alice:client:short-secret\n", "line 1: the token is not one word of 16 to 512"),
        ("alice:client:sha256:secret\n", "line 1: what follows sha256: is not 64 hexadecimal digits"),
        ("a:client:0123456789secret\nb:admin:0123456789secret\n", "one token on two lines"),
        ("alice:client:" + "x" * 2**20 + "\n", "is larger than 1048576 bytes"),
    ],
)
def test_a_broken_tokens_file_is_told_without_its_tokens(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Authenticator(AuthConfig(tokens_file=file))
    message = str(caught.value)
    assert message.startswith(f"auth.tokens_file: {file}")
    assert says in message
    assert "expected" in message
    assert "secret" not in message
    assert "\n" not in message


def test_a_tokens_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read \(No such file"):
        Authenticator(AuthConfig(tokens_file=tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        Authenticator(AuthConfig(tokens_file=tmp_path / "binary"))


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=64)


@settings_of(max_examples=40)
@given(token=WORDS, other=WORDS, hashed=st.booleans())
def test_a_token_lets_in_itself_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, token: str, other: str, *, hashed: bool
) -> None:
    if token.startswith("sha256:"):
        hashed = True
    file = tmp_path_factory.getbasetemp() / "property-tokens"
    file.write_text(line_for("a", "admin", token) if hashed else f"a:admin:{token}")
    authenticator = Authenticator(AuthConfig(tokens_file=file))
    assert authenticator.by_credentials({"x-api-key": token}).role == "admin"
    if other != token:
        with pytest.raises(UnauthenticatedError):
            authenticator.by_credentials({"authorization": f"Bearer {other}"})


def test_a_made_token_is_good_and_its_file_the_owner_s(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from lazyneuron.cli.token import command

    file = tmp_path / "tokens"
    made = [CliRunner().invoke(command, [name, "--role", role, "--file", str(file)]) for name, role in _MADE]
    assert [one.exit_code for one in made] == [0, 0]
    assert file.stat().st_mode & 0o777 == 0o600
    authenticator = Authenticator(AuthConfig(tokens_file=file))
    found = [authenticator.by_credentials({"x-api-key": one.stdout.strip()}) for one in made]
    assert [(subject.name, subject.role) for subject in found] == _MADE
    assert not any(one.stdout.strip() in file.read_text() for one in made)
    with pytest.raises(PermissionDeniedError, match="load: bob has the role client; expected admin"):
        authenticator.require_admin(found[0], "load")
    with pytest.raises(ConfigurationError, match="name: got 'a:b'"):
        line_for("a:b", "client", "x")


_MADE = [("bob", "client"), ("root", "admin")]


def test_a_token_is_not_sent_in_clear_to_another_machine() -> None:
    with pytest.raises(ConfigurationError, match=r"example\.org:8001: the token would be sent in clear; expected TLS"):
        Client("example.org:8001", credentials=Credentials(token=ALICE))
    assert ALICE not in repr(Credentials(token=ALICE))
    Client("example.org:8001", credentials=Credentials(token=ALICE, clear_token=True)).close()


def test_a_stream_ends_with_its_token(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice:client:{ALICE}\nops:admin:{OPS}\n")
    go_on = threading.Event()

    def requests() -> Iterator[oip.ModelInferRequest]:
        request = oip.ModelInferRequest(model_name="vector", raw_input_contents=[X["x"].tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
        yield request
        go_on.wait(60)
        yield request

    with serving(repository, tmp_path / "log", settings(file)) as server, grpc.insecure_channel(server.grpc) as channel:
        metadata = [("x-api-key", ALICE)]
        answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), metadata=metadata, timeout=60)
        assert not next(answers).error_message
        file.write_text(f"ops:admin:{OPS}\n")
        until(lambda: not _works(server, ALICE), "the token is no longer good")
        go_on.set()
        code, words = refusal(lambda: next(answers))
        assert (code, "not one that this server knows" in words) == ("UNAUTHENTICATED", True)
