"""Models that come, change and go while a real server serves them to real clients."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import lazyneuron
from lazyneuron.engine.model import Model
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.tensors import decode
from tests.exporters import graphs
from tests.server.test_predict import request_for
from tests.server.test_process import until
from tests.server.test_repository import damage
from tests.support.artifacts import Size, write_vector_model
from tests.support.server import ServerProcess, serving

X = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
REQUEST = request_for("vector", {"x": X})


def publish(folder: Path, version: int, *, spoil: Callable[[Path], Any] | None = None) -> None:
    """Put a version into a repository as export does: written beside, then renamed."""
    staged = write_vector_model(folder / ".staged", version=version, size=Size(seed=version))
    if spoil is not None:
        spoil(staged)
    (folder / "vector").mkdir(parents=True, exist_ok=True)
    staged.rename(folder / "vector" / str(version))


class Connected:
    """A server with a client of its repository calls."""

    def __init__(self, server: ServerProcess, channel: grpc.Channel) -> None:
        self.server = server
        self.channel = channel
        self._stub = GRPCInferenceServiceStub(channel)

    def states(self) -> dict[int, str]:
        models = self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20).models
        return {int(m.version): m.state for m in models if m.name == "vector"}

    def reason(self, version: int) -> str:
        models = self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20).models
        return next(m.reason for m in models if (m.name, m.version) == ("vector", str(version)))

    def load(self, name: str = "vector") -> None:
        self._stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=30)

    def unload(self, name: str = "vector") -> None:
        self._stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=30)

    def ask(self) -> int:
        version: int = PredictionServiceStub(self.channel).Predict(REQUEST, timeout=20).model_version
        return version


@contextmanager
def connected(models: Path, log: Path, settings: str = "") -> Iterator[Connected]:
    with serving(models, log, settings) as server, grpc.insecure_channel(server.grpc) as channel:
        yield Connected(server, channel)
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    publish(tmp_path / "models", 1)
    return tmp_path / "models"


def test_reloads_under_traffic_lose_nothing_and_mix_no_versions(models: Path, tmp_path: Path) -> None:
    versions = range(1, 7)
    wrong: list[str] = []
    seen: list[list[int]] = [[] for _ in range(6)]
    stop = threading.Event()

    def ask(predict: Any, expected: dict[int, np.ndarray], versions: list[int]) -> None:
        while not stop.is_set():
            try:
                answer = predict(REQUEST, timeout=30)
            except grpc.RpcError as error:
                wrong.append(f"{error.code()}: {error.details()}")
                return
            tensor = answer.outputs[0]
            logits = decode(tensor.name, tensor.datatype, tensor.shape, tensor.data)
            versions.append(answer.model_version)
            if not np.allclose(logits, expected[answer.model_version], atol=1e-5):
                wrong.append(f"version {answer.model_version} gave another's outputs")

    with connected(models, tmp_path / "log") as client:
        for version in versions[1:]:
            publish(tmp_path / "ready", version)
        expected = {}
        for version in versions:
            folder = (models if version == 1 else tmp_path / "ready") / "vector" / str(version)
            expected[version] = Model.load(folder, threads=1).predict({"x": X}).outputs["logits"]
        predict = PredictionServiceStub(client.channel).Predict
        threads = [threading.Thread(target=ask, args=(predict, expected, each)) for each in seen]
        for thread in threads:
            thread.start()
        for version in versions[1:]:
            until(lambda v=version: all(each and each[-1] == v - 1 for each in seen) or bool(wrong), "all are answered")
            (tmp_path / "ready" / "vector" / str(version)).rename(models / "vector" / str(version))
        until(lambda: all(each[-1] == versions[-1] for each in seen) or bool(wrong), "the last version answers all")
        stop.set()
        for thread in threads:
            thread.join(30)
        until(lambda: list(client.states().values()).count("READY") == 1, "the others are freed")
        assert client.states()[versions[-1]] == "READY"
        assert client.server.total("lazyneuron_requests_total", code="OK") == sum(map(len, seen))
        assert client.server.total("lazyneuron_requests_total") == sum(map(len, seen))
        assert client.server.total("lazyneuron_model_info") == 1
    assert wrong == []
    for each in seen:
        assert set(each) == set(versions)


def test_a_broken_version_is_told_everywhere_and_serves_no_one(models: Path, tmp_path: Path) -> None:
    with connected(models, tmp_path / "log") as client:
        publish(models, 2, spoil=damage)
        until(lambda: client.states() == {1: "READY", 2: "UNAVAILABLE"}, "it is refused")
        assert client.ask() == 1
        assert "sha256 is" in client.reason(2)
        assert "vector version 2 is not served: " in client.server.log.read_text()
        assert "vector 2: not served: " in client.server.get("/")
        assert client.server.total("lazyneuron_model_loads_total", version="2", outcome="files") == 1
        assert client.server.get("/readyz") == "ready\n"
        with pytest.raises(grpc.RpcError) as caught:
            client.load()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "vector version 2 cannot be served" in caught.value.details()
        shutil.rmtree(models / "vector" / "2")
        until(lambda: client.states() == {1: "READY"}, "it is forgotten")


def test_load_and_unload(models: Path, tmp_path: Path) -> None:
    with connected(models, tmp_path / "log", '[repository]\nwatch = "off"\nversions = "all"\n') as client:
        publish(models, 2)
        assert client.ask() == 1
        client.load()
        assert client.ask() == 2
        assert client.states() == {1: "READY", 2: "READY"}
        client.unload()
        with pytest.raises(grpc.RpcError) as caught:
            client.ask()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "unloaded by a client" in caught.value.details()
        assert client.states() == {1: "UNAVAILABLE", 2: "UNAVAILABLE"}
        client.load()
        assert client.ask() == 2


@pytest.mark.parametrize(
    ("call", "request_", "code", "says"),
    [
        ("Load", {"model_name": "../models/vector"}, "INVALID_ARGUMENT", "expected a model's name, not a path"),
        ("Load", {"model_name": "/etc"}, "INVALID_ARGUMENT", "expected a model's name, not a path"),
        ("Load", {"model_name": ".."}, "INVALID_ARGUMENT", "expected a model's name, not a path"),
        ("Unload", {"model_name": "vector/1"}, "INVALID_ARGUMENT", "expected a model's name, not a path"),
        ("Load", {"model_name": "nothing"}, "NOT_FOUND", "no model named 'nothing'; the repository has: "),
        ("Unload", {"model_name": "nothing"}, "NOT_FOUND", "no model named 'nothing'; the server has: "),
        ("Load", {"model_name": "broken"}, "FAILED_PRECONDITION", "broken version 1 cannot be served: .*cut short"),
        ("Load", {"model_name": "text", "repository_name": "x"}, "INVALID_ARGUMENT", "the server has one repository"),
        (
            "Load",
            {"model_name": "text", "parameters": {"file:1/model.onnx": pb.ModelRepositoryParameter(bytes_param=b"x")}},
            "INVALID_ARGUMENT",
            "expected no parameters: models are as in the folder",
        ),
    ],
)
def test_calls_that_are_refused(
    channel: grpc.Channel, call: str, request_: dict[str, Any], code: str, says: str
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError, match=says) as caught:
        getattr(stub, f"RepositoryModel{call}")(getattr(pb, f"RepositoryModel{call}Request")(**request_), timeout=30)
    assert caught.value.code().name == code


def test_a_repository_whose_folder_disappears(models: Path, tmp_path: Path) -> None:
    with connected(models, tmp_path / "log", "[repository]\nrescan_seconds = 0.1\n") as client:
        models.rename(tmp_path / "away")
        until(lambda: client.server.total("lazyneuron_repository_reachable") == 0, "it is missed")
        assert client.ask() == 1
        assert (
            "no such folder; give a model, or a folder of models; what was loaded is served still"
            in client.server.get("/")
        )
        (tmp_path / "away").rename(models)
        until(lambda: client.server.total("lazyneuron_repository_reachable") == 1, "it is found again")
        publish(models, 2)
        until(lambda: client.ask() == 2, "its new version is served")
        assert "it can be read again" in client.server.log.read_text()


def test_an_export_that_is_killed_and_one_that_is_not(models: Path, tmp_path: Path) -> None:
    """The real exporter writes into the repository that is served."""
    dense = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    output = models / "exported"
    command = [sys.executable, "-m", "lazyneuron", "export", str(dense), "--output", str(output)]
    with connected(models, tmp_path / "log", "[repository]\nrescan_seconds = 0.1\n") as client:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as export:
            until(
                lambda: any(output.glob(".1.tmp-*")) or export.poll() is not None, "the export has begun to write", 100
            )
            os.kill(export.pid, signal.SIGKILL)
        assert list(output.glob(".1.tmp-*")), "it was killed in the middle"
        assert not (output / "1").exists()
        assert client.ask() == 1
        report = lazyneuron.export(dense, output)
        assert report.path == output / "1"
        ready = "loaded exported version 1: "
        until(lambda: ready in client.server.log.read_text(), "the whole one is served")
        line = next(line for line in client.server.log.read_text().splitlines() if ready in line)
        assert line.endswith("it gave its probe's outputs")
        assert client.ask() == 1
