"""Signed artifacts: an Ed25519 signature (RFC 8032) over `manifest.json`, which holds every other file's digest.

The signature is `manifest.sig`, 64 bytes as they come out of the algorithm, so that any tool can make and check it:
`openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in manifest.json -sigfile manifest.sig`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lazyneuron.engine.artifact import MANIFEST_FILE
from lazyneuron.engine.confine import confined
from lazyneuron.engine.documents import written_beside
from lazyneuron.engine.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SIGNATURE_FILE", "TrustedKey", "check_signature", "new_key", "read_trusted", "sign"]

SIGNATURE_FILE = "manifest.sig"
_SIGNATURE_BYTES = 64
_INSTALL = "signatures need the cryptography library: pip install 'lazyneuron[sign]'"


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures are taken.

    Attributes
    ----------
    file
        Where it was read.
    key
        The key.
    """

    file: Path
    key: "Ed25519PublicKey"


def new_key(file: Path) -> Path:
    """Write a new private key (PKCS #8, PEM), readable by its owner alone, and its public key in `FILE.pub`.

    Returns
    -------
    Path
        The public key's file.

    Raises
    ------
    ConfigurationError
        If one of the files is there already or cannot be written.
    """
    _require()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem, public = serialization.Encoding.PEM, file.with_name(f"{file.name}.pub")
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    known = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path in (file, public):
        if path.exists():
            raise ConfigurationError(f"{path}: it is there already; a key is never overwritten, give another name")
    for path, content, mode in ((file, secret, 0o600), (public, known, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written ({error.strerror})") from error
    return public


def sign(folder: Path, key: Path) -> Path:
    """Sign the manifest in a version's folder; the signature is written beside it.

    Parameters
    ----------
    folder
        The version's folder. The caller has checked its files against the manifest.
    key
        A private Ed25519 key in PEM, not encrypted.

    Raises
    ------
    ConfigurationError
        If the key cannot be read or is of another kind.
    ArtifactError
        If the manifest cannot be read or the signature not be written.
    """
    private = _private(key)
    try:
        signature = private.sign((folder / MANIFEST_FILE).read_bytes())
        with written_beside(folder / SIGNATURE_FILE) as beside:
            beside.write_bytes(signature)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be signed ({error.strerror or error})") from error
    return folder / SIGNATURE_FILE


def read_trusted(files: Sequence[Path]) -> tuple[TrustedKey, ...]:
    """Read public keys.

    Raises
    ------
    ConfigurationError
        If one cannot be read, or is no Ed25519 public key in PEM.
    """
    return tuple(TrustedKey(file, _public(file)) for file in files)


def check_signature(folder: Path, manifest: bytes, trusted: Sequence[TrustedKey], *, root: Path | None = None) -> None:
    """Check a manifest's signature.

    Parameters
    ----------
    folder
        The version's folder, which holds the signature.
    manifest
        What stands in `manifest.json`.
    trusted
        The keys of which one has to have signed it.
    root
        The folder that the signature may not lie outside of; None: the version's own.

    Raises
    ------
    ArtifactError
        If there is no signature, or none of these keys made it.
    """
    from cryptography.exceptions import InvalidSignature

    path = folder / SIGNATURE_FILE
    confined(path, root or folder)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; the server takes signed models alone, sign it: lazyneuron sign")
    try:
        with path.open("rb") as file:
            signature = file.read(_SIGNATURE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path}: not readable ({error.strerror})") from error
    for trust in trusted:
        try:
            trust.key.verify(signature, manifest)
        except InvalidSignature:
            continue
        return
    keys = ", ".join(str(trust.file) for trust in trusted)
    raise ArtifactError(f"{path}: not a signature of {MANIFEST_FILE} by a trusted key ({keys})")


def _private(file: Path) -> "Ed25519PrivateKey":
    _require()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = _content(file)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except Exception as error:
        raise ConfigurationError(f"{file}: not a private key in PEM, unencrypted ({_first_line(error)})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{file}: a key for {type(key).__name__}; expected an Ed25519 private key")
    return key


def _public(file: Path) -> "Ed25519PublicKey":
    _require()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    content = _content(file)
    if b"PRIVATE KEY" in content:
        raise ConfigurationError(f"{file}: a private key; a server needs, and should have, the public one alone")
    try:
        key = serialization.load_pem_public_key(content)
    except Exception as error:
        raise ConfigurationError(f"{file}: not a public key in PEM ({_first_line(error)})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{file}: a key for {type(key).__name__}; expected an Ed25519 public key")
    return key


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: not readable ({error.strerror})") from error


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(_INSTALL) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
