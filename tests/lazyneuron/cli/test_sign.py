"""`lazyneuron sign`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from lazyneuron.cli.sign import command
from lazyneuron.engine.artifact import MANIFEST_FILE
from lazyneuron.engine.errors import ArtifactError, ConfigurationError
from lazyneuron.engine.signature import check_signature, read_trusted
from tests.support.artifacts import write_vector_model


def run(*args: object) -> str:
    result = CliRunner().invoke(command, list(map(str, args)), catch_exceptions=False)
    assert result.exit_code in {0, 2}
    return result.output


def test_a_new_key_and_a_signature(tmp_path: Path) -> None:
    key = tmp_path / "key"
    folder = write_vector_model(tmp_path / "models", version=3)
    assert f"{key}: keep it secret" in run("--new-key", key)
    assert "manifest.sig: vector version 3 is signed" in run(tmp_path / "models" / "vector", "--key", key)
    check_signature(folder, (folder / MANIFEST_FILE).read_bytes(), read_trusted([tmp_path / "key.pub"]))


def test_a_model_that_is_not_as_its_manifest_says_is_not_signed(tmp_path: Path) -> None:
    folder = write_vector_model(tmp_path)
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="0 bytes, the manifest says"):
        run(folder, "--new-key", tmp_path / "key")
    assert not (folder / "manifest.sig").exists()


def test_wrong_use(tmp_path: Path) -> None:
    assert "give MODEL and --key FILE, or --new-key FILE" in run()
    assert "give MODEL and --key FILE, or --new-key FILE" in run(tmp_path)
    assert "go together in no way" in run("--key", "a", "--new-key", "b")
    with pytest.raises(ConfigurationError, match="none: not readable"):
        run(write_vector_model(tmp_path), "--key", tmp_path / "none")
