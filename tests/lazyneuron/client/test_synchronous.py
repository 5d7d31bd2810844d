"""`lazyneuron.Client` and `lazyneuron predict` against a server process."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazyneuron
from lazyneuron.client import Client, Retries
from lazyneuron.engine import errors
from lazyneuron.engine.model import Model
from tests.support.server import ServerProcess

X = np.random.default_rng(3).normal(size=(2, 16)).astype(np.float32)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with lazyneuron.Client(server.grpc, retries=Retries(attempts=1)) as client:
        yield client


def test_arrays_in_and_out(client: Client, models: Path) -> None:
    answer = client.predict("vector", {"x": X}, version=3, budget=0.5)
    expected = Model.load(models / "vector").predict({"x": X}, budget=0.5)
    assert np.array_equal(answer.outputs["logits"], expected.outputs["logits"])
    assert answer.sparsity == expected.sparsity
    assert (answer.model_name, answer.model_version) == ("vector", 3)
    assert answer.timing.inference_seconds > 0
    assert answer.timing.batch_size == 2


def test_text(client: Client, models: Path) -> None:
    answer = client.predict("text", "few neurons work")
    assert np.array_equal(
        answer.outputs["logits"], Model.load(models / "text").predict("few neurons work").outputs["logits"]
    )


def test_lists_are_arrays_of_their_own_dtype(client: Client) -> None:
    assert client.predict("text", {"input_ids": [[2, 3, 4]]}).outputs["logits"].shape == (1, 3)
    with pytest.raises(errors.InputError, match="x: got dtype float64; expected float32"):
        client.predict("vector", {"x": X.tolist()})


def test_the_server_s_errors_are_raised_again(client: Client) -> None:
    with pytest.raises(
        errors.ModelNotFoundError, match="no model named 'none'; the server has: image, slow, text, vector"
    ):
        client.predict("none", "x")
    with pytest.raises(errors.InputError, match=r"budget: got 2\.0") as caught:
        client.predict("text", "lazy", budget=2)
    assert caught.value.field == "budget"
    with pytest.raises(errors.InputError, match="x: got no such input"):
        client.predict("vector", {})


def test_what_cannot_be_sent(client: Client) -> None:
    with pytest.raises(errors.InputError, match=r"x: got dtype .*; expected numbers or booleans"):
        client.predict("vector", {"x": np.array(["a"])})


def test_a_timeout(client: Client) -> None:
    with pytest.raises(errors.DeadlineExceededError, match=r"no answer before the timeout|the deadline passed"):
        client.predict("slow", {"x": np.ones((7, 512, 256), np.float32)}, timeout=0.02)


def test_a_full_queue(client: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    request = {"x": np.ones((4, 500, 256), np.float32)}
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(client.predict, "slow", request) for _ in range(8)]
        raised = [error for call in calls if (error := call.exception()) is not None]
    assert raised
    assert all(isinstance(error, errors.QueueFullError) and error.retry_after > 0 for error in raised)


def test_no_server() -> None:
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(errors.ServingError, match=r"127\.0\.0\.1:1: no server answers"),
    ):
        client.predict("text", "lazy")


def test_an_internal_fault_names_the_request(client: Client) -> None:
    with pytest.raises(
        errors.LazyneuronError, match=r"INTERNAL: internal error; the server's log has it under request"
    ):
        client.predict("text", {"input_ids": np.array([[10**6]])})


def test_importing_the_client_needs_no_engine() -> None:
    code = (
        "import sys, lazyneuron.client; print([m for m in ('onnxruntime', 'torch', 'starlette') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def predict(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lazyneuron", "predict", *arguments, "--address", server.grpc]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_predict_prints_a_table(server: ServerProcess) -> None:
    done = predict(server, "text", "--text", "lazy neurons sleep", "--top", "2")
    assert done.returncode == 0, done.stderr
    first, *best, heading, output = done.stdout.splitlines()[:5]
    assert (first, heading) == ("text version 1", "outputs:")
    for line in best:
        assert re.fullmatch(r"  +\d+\.\d\d%  class \d", line)
    assert output.startswith("  logits [1, 3]: ")
    assert "MLP FLOPs saved: " in done.stdout


def test_predict_prints_json(server: ServerProcess, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = predict(server, "vector", "--input", f"x={tmp_path / 'x.npy'}", "--json")
    document = json.loads(done.stdout)
    expected = Model.load(models / "vector").predict({"x": X})
    assert np.array_equal(np.array(document["outputs"]["logits"], np.float32), expected.outputs["logits"])
    assert document["sparsity"]["flops_saved"] == expected.sparsity.flops_saved
    assert document["sparsity"]["blocks"][0]["name"] == "block_0"
    assert document["timing"]["batch_requests"] == 1
    best = [int(answer["labels"][0]) for answer in document["answers"]]
    assert best == expected.outputs["logits"].argmax(-1).tolist()


def test_predict_answers_an_image(server: ServerProcess, models: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)).save(tmp_path / "x.png")
    done = predict(server, "image", "--image", str(tmp_path / "x.png"), "--json")
    (answer,) = json.loads(done.stdout)["answers"]
    assert answer["kind"] == "classification"
    assert tuple(answer["labels"]) == Model.load(models / "image").predict(tmp_path / "x.png").labels
    assert sum(candidate["score"] for candidate in answer["candidates"]) == pytest.approx(1)


def test_predict_errors_are_one_line(server: ServerProcess, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    for arguments, status, message in [
        (["none", "--text", "x"], 1, "no model named 'none'"),
        (["vector", "--input", f"x={tmp_path}/missing.npy"], 1, "missing.npy, which is not there"),
        (["vector", "--input", f"x={tmp_path}/objects.npy"], 1, "expected an .npy file of numbers"),
        (["vector", "--input", f"x={tmp_path}/text.npy"], 1, "expected an .npy file of numbers"),
        (["vector", "--input", "x.npy"], 2, "expected NAME=FILE.npy"),
        (["vector"], 2, "give one of --text, --image, --input and --file"),
        (["image", "--image", "x.png", "--text", "x"], 2, "give one of --text, --image, --input and --file"),
        (
            ["image", "--image", f"{tmp_path}/missing.png"],
            1,
            "missing.png (No such file or directory); expected an image",
        ),
        (["image", "--image", f"{tmp_path}/text.npy"], 1, "image: got 8 bytes; expected an image file"),
        (["text", "--text", "x", "--top", "0"], 2, "--top"),
    ]:
        done = predict(server, *arguments)
        assert done.returncode == status, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        if status == 1:
            assert len(done.stderr.splitlines()) == 1
            assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("address", [None, 5, ""])
def test_an_address_that_is_none(address: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="expected HOST:PORT"):
        Client(address)
