"""What is loaded from a folder, and what stops a server."""

from pathlib import Path

import pytest

from lazyneuron.engine.errors import ArtifactError
from lazyneuron.server.repository import load_repository
from tests.support.artifacts import write_vector_model


def test_a_folder_of_models(repository: Path) -> None:
    found = load_repository(repository)
    assert sorted(found.models) == ["sequence", "text", "vector"]
    assert list(found.broken) == ["broken"]


def test_the_highest_version_is_served(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        write_vector_model(tmp_path, version=version)
    assert load_repository(tmp_path).models["vector"].version == 10


@pytest.mark.parametrize("part", ["vector", "vector/1"])
def test_a_path_to_one_model(repository: Path, part: str) -> None:
    assert list(load_repository(repository / part).models) == ["vector"]


def test_two_models_of_one_name(tmp_path: Path) -> None:
    write_vector_model(tmp_path)
    (tmp_path / "vector").rename(tmp_path / "a-copy")
    write_vector_model(tmp_path)
    found = load_repository(tmp_path)
    assert list(found.models) == ["vector"]
    assert "a second model named 'vector'" in found.broken["vector"]


def test_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no model in it"):
        load_repository(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        load_repository(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="empty: not a model"):
        load_repository(tmp_path)
