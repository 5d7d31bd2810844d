"""Signatures, against OpenSSL's own, and keys that are none."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lazyneuron.engine.artifact import MANIFEST_FILE
from lazyneuron.engine.errors import ArtifactError, ConfigurationError
from lazyneuron.engine.signature import SIGNATURE_FILE, check_signature, new_key, read_trusted, sign
from tests.support.artifacts import write_vector_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_vector_model(tmp_path / "models")


def openssl(*arguments: object) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def check(folder: Path, *public: Path) -> None:
    check_signature(folder, (folder / MANIFEST_FILE).read_bytes(), read_trusted(public))


def test_what_was_signed_is_taken(folder: Path, tmp_path: Path) -> None:
    ours, theirs = new_key(tmp_path / "ours"), new_key(tmp_path / "theirs")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o600
    assert sign(folder, tmp_path / "ours") == folder / SIGNATURE_FILE
    check(folder, ours)
    check(folder, theirs, ours)
    with pytest.raises(ArtifactError, match=r"not a signature of manifest\.json by a trusted key"):
        check(folder, theirs)
    sign(folder, tmp_path / "theirs")  # signing anew takes the place of what was there
    check(folder, theirs)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("change", [b"", b"\0" * 64, b"\0" * 65, None])
def test_a_signature_that_is_none(folder: Path, tmp_path: Path, change: bytes | None) -> None:
    public = new_key(tmp_path / "key")
    signature = sign(folder, tmp_path / "key")
    if change is None:
        manifest = folder / MANIFEST_FILE
        manifest.write_bytes(manifest.read_bytes() + b"\n")
    else:
        signature.write_bytes(change)
    with pytest.raises(ArtifactError, match=r"not a signature of manifest\.json"):
        check(folder, public)
    signature.unlink()
    with pytest.raises(ArtifactError, match="no such file; the server takes signed models alone"):
        check(folder, public)


def test_openssl_checks_ours_and_we_check_openssl_s(folder: Path, tmp_path: Path) -> None:
    public = new_key(tmp_path / "ours")
    signature = sign(folder, tmp_path / "ours")
    files = ["-rawin", "-in", folder / MANIFEST_FILE]
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", public, *files, "-sigfile", signature)
    openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key.pem")
    openssl("pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "key.pub")
    openssl("pkeyutl", "-sign", "-inkey", tmp_path / "key.pem", *files, "-out", signature)
    check(folder, tmp_path / "key.pub")
    sign(folder, tmp_path / "key.pem")
    check(folder, tmp_path / "key.pub")


def test_keys_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    public = new_key(tmp_path / "key")
    (tmp_path / "nonsense").write_text("-----BEGIN NONSENSE-----\n")
    with pytest.raises(ConfigurationError, match="not a private key in PEM"):
        sign(folder, public)
    with pytest.raises(ConfigurationError, match="not a private key in PEM"):
        sign(folder, tmp_path / "nonsense")
    with pytest.raises(ConfigurationError, match="not readable"):
        sign(folder, tmp_path / "none")
    with pytest.raises(ConfigurationError, match="should have, the public one alone"):
        read_trusted([tmp_path / "key"])
    with pytest.raises(ConfigurationError, match="not a public key in PEM"):
        read_trusted([tmp_path / "nonsense"])
    with pytest.raises(ConfigurationError, match="a key is never overwritten"):
        new_key(tmp_path / "key")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        new_key(tmp_path / "nowhere" / "key")
    assert not (folder / SIGNATURE_FILE).exists()


def test_keys_of_another_kind(folder: Path, tmp_path: Path) -> None:
    openssl("genpkey", "-algorithm", "x25519", "-out", tmp_path / "key.pem")
    openssl("pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "key.pub")
    with pytest.raises(ConfigurationError, match="expected an Ed25519 private key"):
        sign(folder, tmp_path / "key.pem")
    with pytest.raises(ConfigurationError, match="expected an Ed25519 public key"):
        read_trusted([tmp_path / "key.pub"])
