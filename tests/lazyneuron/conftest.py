"""One server of small models for all that calls one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.artifacts import (
    Size,
    write_image_classifier,
    write_sequence_encoder,
    write_text_classifier,
    write_vector_model,
)
from tests.support.server import ServerProcess, serving


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_text_classifier(folder)
    write_vector_model(folder, version=3)
    write_image_classifier(folder)
    write_sequence_encoder(folder, name="slow", size=Size(d_model=256, d_ff=2048, blocks=6))
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(models, tmp_path_factory.mktemp("server") / "log", "[queue]\nmax_tokens = 4000\n") as process:
        yield process
