"""`lazyneuron predict --file` against a server process."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lazyneuron.cli import main
from lazyneuron.engine.model import Model
from lazyneuron.protocol import prediction_pb2 as pb
from tests.support.scripted import until
from tests.support.server import ServerProcess

X = np.random.default_rng(5).normal(size=(40, 16)).astype(np.float32)


def command(server: ServerProcess, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "lazyneuron", "predict", *map(str, arguments), "--address", server.grpc]


def predict(server: ServerProcess, *arguments: object, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(server, *arguments), input=given, capture_output=True, timeout=60)


def documents(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def logits(document: dict[str, Any]) -> np.ndarray:
    return np.array(document["outputs"]["logits"], np.float32)


@pytest.fixture(scope="module")
def expected(models: Path) -> np.ndarray:
    model = Model.load(models / "vector")
    return np.concatenate([model.predict({"x": x[None]}).outputs["logits"] for x in X])


def test_every_line_is_answered_in_order(server: ServerProcess, expected: np.ndarray, tmp_path: Path) -> None:
    data, answers = tmp_path / "data.jsonl", tmp_path / "answers.jsonl"
    data.write_bytes(
        b"\xef\xbb\xbf" + lines([{"inputs": {"x": x.tolist()}, "label": 1} for x in X]).replace(b"\n", b"\n\n")
    )
    done = predict(server, "vector", "--file", data, "--output", answers, "--concurrency", 7)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert done.stderr.decode() == "predicting data.jsonl (40)\n"
    got = documents(answers.read_bytes())
    assert [one["line"] for one in got] == list(range(1, 80, 2))  # every second one is empty
    for row, one in zip(expected, got, strict=True):
        assert np.array_equal(logits(one), row[None])
        assert one["sparsity"]["flops_dense"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "data.jsonl"]


def test_the_streams(server: ServerProcess, models: Path) -> None:
    texts = ["few neurons work", "lazy neurons sleep and save energy"]
    done = predict(server, "text", "--file", "-", "--top", 2, "--no-outputs", given=lines([{"text": t} for t in texts]))
    assert done.returncode == 0, done.stderr
    model = Model.load(models / "text")
    for text, one in zip(texts, documents(done.stdout), strict=True):
        assert tuple(one["answers"][0]["labels"]) == model.predict(text).labels[:2]
        assert one["outputs"] == {}


def test_npz(server: ServerProcess, expected: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X.astype(np.float64), label=np.zeros(len(X)))
    done = predict(server, "vector", "--file", tmp_path / "data.npz", "--budget", 1)
    assert done.returncode == 0, done.stderr
    got = documents(done.stdout)
    assert [one["line"] for one in got] == list(range(1, 41))
    assert np.array_equal(np.concatenate(list(map(logits, got))), expected)


def test_images_are_named_as_seen_from_the_file(server: ServerProcess, models: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "below").mkdir()
    image = tmp_path / "below" / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)).save(image)
    (tmp_path / "below" / "data.jsonl").write_bytes(lines([{"image": "a.png"}, {"image": "none.png"}]))
    done = predict(server, "image", "--file", tmp_path / "below" / "data.jsonl")
    assert done.returncode == 1
    first, second = documents(done.stdout)
    assert tuple(first["answers"][0]["labels"]) == Model.load(models / "image").predict(image).labels
    assert second["error"]["kind"] == "InputError"
    assert "none.png (No such file or directory); expected an image file" in second["error"]["message"]


WRONG = [
    (b"{", "the line: got no JSON"),
    (b"[1]", "the line: got list; expected"),
    (b'{"texts": 1}', "got keys ['texts']; expected"),
    (b'{"text": 5}', "got keys ['text']; expected"),
    (b'{"inputs": {"x": [[1], [1, 2]]}}', "x: got lists of unequal lengths"),
    (b'{"inputs": {"x": ["a"]}}', "x: got values of dtype <U1; expected float32"),
    (b'{"inputs": {"x": [1, 2]}}', "x: got shape [1, 2]; expected shape [batch, 16]"),
    (b'{"inputs": {"x": %s}}' % json.dumps([1e300] * 16).encode(), "x: got inf at [0, 0]; expected finite numbers"),
    (b'{"inputs": {"y": [1, 2]}}', "'y': got an input of that name"),
    (b'{"inputs": {}}', "x: got no such input"),
    (b'{"text": "lazy"}', "vector has no tokenizer"),
    (b'{"text": "\\ud800"}', "text: got '\\ud800'; expected Unicode characters"),
    (b'{"inputs": {"\\ud800": [1]}}', "the name of an input: got '\\ud800'; expected Unicode characters"),
    (b'{"inputs": {"x": [0.5, 1%s]}}' % (b"0" * 400), "x: got values of dtype object; expected float32"),
    (b'{"image": "a\\u0000"}', "image: got 'a\\x00' (embedded null byte); expected an image file"),
    (b'{"image": "\\ud800"}', "image: got '\\ud800' ('utf-8' codec"),
    (b"\xff\xfe", "the line: got no JSON"),
    (b"[" * 100_000, "the line: got no JSON"),
]


def test_a_wrong_line_is_told_and_the_rest_goes_on(server: ServerProcess, expected: np.ndarray) -> None:
    good = lines([{"inputs": {"x": X[0].tolist()}}])
    given = good + b"".join(line + b"\n" + good for line, _ in WRONG)
    done = predict(server, "vector", "--file", "-", "--concurrency", 3, given=given)
    assert done.returncode == 1
    got = documents(done.stdout)
    assert [one["line"] for one in got] == list(range(1, 2 * len(WRONG) + 2))
    assert all(np.array_equal(logits(one), expected[:1]) for one in got[::2])
    told = done.stderr.decode().splitlines()
    assert told[0] == "predicting -"
    for (_, message), one, line in zip(WRONG, got[1::2], told[1:-1], strict=True):
        assert message in one["error"]["message"]
        assert line.startswith(f"line {one['line']}: ")
        assert message in line
    assert told[-1] == f"error: {len(WRONG)} of the lines failed; their answers say why"


def test_a_wrong_line_at_the_end(server: ServerProcess) -> None:
    done = predict(server, "vector", "--file", "-", given=lines([{"inputs": {"x": X[0].tolist()}}]) + b"{")
    assert [one["line"] for one in documents(done.stdout)] == [1, 2]


def test_what_is_wrong_with_the_whole(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "single.npy", X)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    np.savez(tmp_path / "unequal.npz", x=X, y=X[:3])
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    np.savez(tmp_path / "scalar.npz", x=np.float32(1))
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "some.jsonl").write_text('{"text": "lazy"}\n')
    for name, arguments, status, message in [
        (
            "vector",
            ["--file", tmp_path / "none.jsonl"],
            1,
            "none.jsonl (No such file or directory)",
        ),
        ("vector", ["--file", tmp_path], 1, "(Is a directory)"),
        ("vector", ["--file", tmp_path / "single.npz"], 1, "a single array; expected an .npz"),
        ("vector", ["--file", tmp_path / "unequal.npz"], 1, "x [40, 16], y [3, 16]; expected arrays of one length"),
        ("vector", ["--file", tmp_path / "objects.npz"], 1, "expected an .npz file of arrays"),
        ("vector", ["--file", tmp_path / "scalar.npz"], 1, "expected arrays of one length"),
        ("vector", ["--file", tmp_path / "empty.npz"], 1, "no array"),
        ("vector", ["--file", tmp_path / "text.npz"], 1, "expected an .npz file of arrays"),
        ("none", ["--file", tmp_path / "some.jsonl"], 1, "no model named 'none'"),
        ("text", ["--file", tmp_path / "some.jsonl", "--output", tmp_path / "no" / "answers"], 1, "No such file"),
        ("text", ["--file", tmp_path / "some.jsonl", "--output", tmp_path], 1, "a folder; expected a file"),
        ("\udcff", ["--text", "lazy"], 1, "name: got '\\udcff'; expected Unicode characters"),
        ("\udcff", ["--file", "-"], 1, "name: got '\\udcff'; expected Unicode characters"),
        ("text", ["--file", tmp_path / "some.jsonl", "--text", "x"], 2, "give one of"),
        ("text", ["--file", "-", "--resume", "--output", "x"], 2, "--resume needs --file FILE"),
        ("text", ["--file", tmp_path / "some.jsonl", "--resume"], 2, "--resume needs"),
        ("text", ["--file", "-", "--concurrency", "0"], 2, "--concurrency"),
    ]:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SystemExit) as ended:
            main(["predict", name, *map(str, arguments), "--address", server.grpc])
        told = capsys.readouterr().err
        assert ended.value.code == status, told
        assert message in told
        assert status == 2 or len(told.splitlines()) == 1
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("close", "option"), [("<&-", "--file"), (">&-", "--output")])
def test_a_stream_that_is_closed(server: ServerProcess, close: str, option: str) -> None:
    shell = ["sh", "-c", f'exec "$@" {close}', "-"]
    done = subprocess.run([*shell, *command(server, "text", "--file", "-")], input=b"", capture_output=True, timeout=60)
    assert done.returncode == 1
    assert f"error: {option}: got a standard stream that is closed" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_file_without_lines(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    done = predict(server, "text", "--file", tmp_path / "none.jsonl", "--output", tmp_path / "answers")
    assert (done.returncode, (tmp_path / "answers").read_bytes()) == (0, b""), done.stderr


def slow_lines(path: Path, count: int) -> None:
    """Requests that take a while each."""
    row = json.dumps({"inputs": {"x": np.ones((96, 256), int).tolist()}}).encode() + b"\n"
    path.write_bytes(row * count)


@pytest.mark.parametrize("resume", [False, True])
def test_ctrl_c_leaves_nothing_half_written(server: ServerProcess, tmp_path: Path, resume: bool) -> None:
    slow_lines(tmp_path / "data.jsonl", 400)
    arguments = ["slow", "--file", tmp_path / "data.jsonl", "--output", tmp_path / "answers", "--concurrency", 2]
    partial = tmp_path / ".answers.partial"
    words = command(server, *arguments, "--no-outputs", *["--resume"] * resume)
    # What runs in the background has it ignored. Not `preexec_fn`: gRPC's threads may hold a lock in that moment.
    listening = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    wrapped = [sys.executable, "-c", listening, *words]
    with subprocess.Popen(wrapped, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: partial.is_file() and partial.stat().st_size > 0, "answers are being written", seconds=120)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told.decode().splitlines()[-1] == "stopped"
    assert not (tmp_path / "answers").exists()
    assert partial.exists() == resume
    if resume:
        whole = partial.read_bytes()
        assert [one["line"] for one in documents(whole)] == list(range(1, whole.count(b"\n") + 1))


def test_resuming_goes_on_where_it_stopped(server: ServerProcess, tmp_path: Path) -> None:
    data, answers, partial = tmp_path / "data.jsonl", tmp_path / "answers", tmp_path / ".answers.partial"
    data.write_bytes(lines([{"inputs": {"x": x.tolist()}} for x in X]))
    arguments = ["vector", "--file", data, "--output", answers, "--resume"]
    assert predict(server, *arguments).returncode == 0
    whole = answers.read_bytes().splitlines(keepends=True)
    kept = [line.replace(b'"version": 3', b'"version": 77') for line in whole[:15]]
    partial.write_bytes(b"".join(kept) + whole[15][:50])  # killed in the middle of a line
    answers.unlink()
    assert predict(server, *arguments).returncode == 0
    got = documents(answers.read_bytes())
    assert [one["line"] for one in got] == list(range(1, 41))
    assert [one["version"] for one in got] == [77] * 15 + [3] * 25
    assert not partial.exists()
    partial.write_bytes(whole[0])
    done = predict(server, "text", *arguments[1:])
    assert done.returncode == 1
    assert b"with answers of vector; expected answers of text; remove it to begin anew" in done.stderr


def test_a_reader_that_has_enough(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines([{"inputs": {"x": X[0].tolist()}}]) * 3000)
    words = command(server, "vector", "--file", tmp_path / "data.jsonl")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 1


def test_a_bar_on_a_terminal(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines([{"inputs": {"x": X[0].tolist()}}]) * 300)
    ours, theirs = pty.openpty()
    words = command(server, "vector", "--file", tmp_path / "data.jsonl", "--output", tmp_path / "answers")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = io.BytesIO()
        try:
            while part := os.read(ours, 65536):
                shown.write(part)
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert "300/300" in shown.getvalue().decode()


def test_a_server_that_goes_away_ends_the_work(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of the lines would wait for a server."""
    from lazyneuron.cli import predict_file
    from lazyneuron.client import Client, Retries
    from lazyneuron.engine.errors import ServingError
    from tests.support.scripted import scripted

    monkeypatch.setattr(predict_file, "_RETURN_SECONDS", 0.3)
    (tmp_path / "data.jsonl").write_bytes(lines([{"text": "lazy"}]) * 500)

    def answer(request: pb.PredictRequest, context: grpc.ServicerContext, number: int) -> pb.PredictResponse:
        if number == 5:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return pb.PredictResponse()

    files = str(tmp_path / "data.jsonl"), str(tmp_path / "answers")
    job = predict_file.Job("m", *files, 1, None, 1.0, None, 5, None, outputs=True, resume=False)
    with scripted(answer) as server, Client(server.address, retries=Retries(attempts=1)) as client:
        monkeypatch.setattr(Client, "model", lambda *_: predict_file.ModelInfo("m", (1,), (), ()))
        with pytest.raises(ServingError):
            predict_file.predict_file(client, job, lambda answer: {})
        assert server.calls < 20
    assert not (tmp_path / "answers").exists()
