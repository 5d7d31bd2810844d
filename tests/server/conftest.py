"""Models and servers that several tests share. Servers are processes of their own, reached over the loopback."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from lazyneuron.engine.session import operator_library
from tests.support.artifacts import Size, write_sequence_encoder, write_text_classifier, write_vector_model
from tests.support.server import ServerProcess, serving


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small models and a broken one."""
    assert operator_library().is_file()
    folder = tmp_path_factory.mktemp("models")
    write_text_classifier(folder)
    write_sequence_encoder(folder)
    write_vector_model(folder)
    broken = write_vector_model(folder, name="broken")
    with (broken / "model.onnx").open("ab") as file:
        file.write(b"\0")
    return folder


@pytest.fixture(scope="session")
def slow_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is large enough for a request to take a good part of a second."""
    folder = tmp_path_factory.mktemp("slow")
    write_sequence_encoder(folder, name="slow", size=Size(d_model=256, d_ff=2048, blocks=6))
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that outlives a test: what it has counted before is not zero."""
    with serving(repository, tmp_path_factory.mktemp("server") / "server.log") as process:
        yield process
        assert process.process.poll() is None, "the server died during the tests"
        assert process.terminate() == 0


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        yield channel
