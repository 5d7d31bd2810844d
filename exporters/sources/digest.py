"""A digest over a checkpoint's files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["digest_files"]


def digest_files(paths: Iterable[Path]) -> str:
    """Return `sha256:` and the digest over the files' names, sizes and bytes, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {path.stat().st_size} {inner}\n".encode())
    return f"sha256:{total.hexdigest()}"
