"""What is taken for a model in a folder."""

import os
import shutil
from pathlib import Path

import pytest

from lazyneuron.engine.artifact import read_manifest
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.server.folders import Scanner
from tests.support.artifacts import write_vector_model


def names(scanner: Scanner) -> dict[str, list[int]]:
    return {name: sorted(found) for name, found in scanner.scan().models.items()}


def test_scratch_is_nobody_s_model(tmp_path: Path) -> None:
    write_vector_model(tmp_path)
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "begun" / ".1.tmp-abc").mkdir(parents=True)
    (tmp_path / "vector" / ".2.tmp-abc").mkdir()
    (tmp_path / "vector" / "02").mkdir()
    (tmp_path / "vector" / "latest").symlink_to("1")
    (tmp_path / "notes.txt").write_text("")
    scanner = Scanner(tmp_path)
    assert names(scanner) == {"vector": [1]}
    assert scanner.scan().broken == {}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: (root / "with space").mkdir(), "not a model's name"),
        (lambda root: (root / "empty").mkdir(), "empty: not a model"),
        (lambda root: (root / "loop").symlink_to("loop"), None),
        (lambda root: (root / "file").write_text(""), None),
        (lambda root: (root / "out").symlink_to("/"), "leads to /, outside"),
    ],
)
def test_what_is_none_is_told_or_left_out(tmp_path: Path, make, says: str | None) -> None:
    write_vector_model(tmp_path)
    make(tmp_path)
    scan = Scanner(tmp_path).scan()
    assert list(scan.models) == ["vector"]
    assert [says in reason for reason in scan.broken.values()] == ([True] if says else [])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"name": 3}', '{"name": "../x", "version": 1, "files": {}}', "[" * 100_000]
)
def test_a_manifest_that_is_none_is_left_to_the_loader(tmp_path: Path, content: str) -> None:
    (write_vector_model(tmp_path) / "manifest.json").write_text(content)
    assert names(Scanner(tmp_path)) == {"vector": [1]}


def test_a_version_without_a_folder_of_its_model(tmp_path: Path) -> None:
    shutil.move(write_vector_model(tmp_path, version=4), tmp_path / "flat")
    shutil.rmtree(tmp_path / "vector")
    assert names(Scanner(tmp_path)) == {"vector": [4]}
    assert names(Scanner(tmp_path / "flat")) == {"vector": [4]}


def test_a_change_of_any_file_is_seen_and_of_others_is_not(tmp_path: Path) -> None:
    folder = write_vector_model(tmp_path)
    scanner = Scanner(tmp_path)

    def print_() -> object:
        return scanner.scan().models["vector"][1].fingerprint

    prints = [print_()]
    (folder / "stray").write_text("")
    assert print_() == prints[0]
    os.utime(folder / "model.onnx", ns=(1, 1))
    prints.append(print_())
    (folder / "manifest.sig").write_bytes(b"")
    prints.append(print_())
    (folder / "model.onnx").unlink()
    prints.append(print_())
    (folder / "manifest.json").unlink()
    prints.append(print_())
    assert len(set(prints)) == len(prints)


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        Scanner(tmp_path / "none").scan()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="no such folder"):
        Scanner(tmp_path / "file").scan()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_manifest_that_is_no_file_is_not_read(tmp_path: Path, make) -> None:
    folder = write_vector_model(tmp_path)
    (folder / "manifest.json").unlink()
    make(folder / "manifest.json")
    assert names(Scanner(tmp_path)) == {"vector": [1]}
    with pytest.raises(ArtifactError, match=r"manifest\.json: not a file"):
        read_manifest(folder)
