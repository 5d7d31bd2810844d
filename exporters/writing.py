"""Writing an artifact beside its place and moving it there when it is whole."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lazyneuron.engine.artifact import versions
from lazyneuron.engine.errors import ArtifactError

__all__ = ["free_version", "staged", "write_errors"]


def free_version(output: Path, wanted: int | None) -> int:
    """Return the version to write under a model's folder.

    Raises
    ------
    ArtifactError
        If the wanted one is there already.
    """
    if wanted is None:
        return max(versions(output), default=0) + 1
    if (output / str(wanted)).exists():
        raise ArtifactError(
            f"{output / str(wanted)}: version {wanted} is there already; choose another, or leave it out"
        )
    return wanted


@contextmanager
def write_errors(output: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one clear line."""
    try:
        yield
    except OSError as error:
        reason = "no space left on the device" if error.errno in {errno.ENOSPC, errno.EDQUOT} else _reason(error)
        raise ArtifactError(f"{output}: cannot write the artifact: {reason}") from error


@contextmanager
def staged(output: Path, version: int) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes `output/version`, and else nothing of it is left.

    Raises
    ------
    ArtifactError
        If the folder cannot be made or moved, or the version has appeared meanwhile.
    """
    made = _missing(output)
    folder: Path | None = None
    try:
        with write_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{version}.tmp-", dir=output))
            folder.chmod(0o755)  # mkdtemp's is for its owner alone, and a server may run as another user
        yield folder
        with write_errors(output):
            _sync(folder)
            if (output / str(version)).exists():
                raise ArtifactError(f"{output / str(version)}: it appeared while this export ran; export again")
            folder.rename(output / str(version))
    except BaseException:  # Ctrl-C too
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)
        raise


def _missing(folder: Path) -> list[Path]:
    """Return the folders that making `folder` will make, the innermost first."""
    return [p for p in (folder, *folder.parents) if not p.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # someone else has put something there


def _sync(folder: Path) -> None:
    """See to it that the files are on the disk before the folder gets its name."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__
