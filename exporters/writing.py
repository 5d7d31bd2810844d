"""Writing an artifact beside its place and moving it there when it is whole.

An export holds a lock (flock) on the folder that it fills, which the kernel lets go of however the export ends: a
folder that nobody holds is what a killed one left, and the next export into the same place takes it away.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lazyneuron.engine.artifact import versions
from lazyneuron.engine.errors import ArtifactError, one_line

__all__ = ["free_version", "staged", "write_errors"]

_UNFINISHED = re.compile(r"\.[0-9]+\.tmp-[a-z0-9_]{8}")


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

    What killed exports left in `output` is taken away first.

    Raises
    ------
    ArtifactError
        If the folder cannot be made or moved, or the version has appeared meanwhile.
    """
    made = _missing(output)
    folder: Path | None = None
    held = ExitStack()
    try:
        with write_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            with _locked(output, wait=True) as alone:  # else a new folder might be seen before its lock is there
                if alone:
                    _remove_unfinished(output)
                folder = Path(tempfile.mkdtemp(prefix=f".{version}.tmp-", dir=output))
                held.enter_context(_locked(folder, wait=True))
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
    finally:
        held.close()


def _remove_unfinished(output: Path) -> None:
    for folder in output.iterdir():
        if _UNFINISHED.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            with _locked(folder, wait=False) as abandoned:
                if abandoned:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder's lock; give False where another process holds it, or the file system has no such locks."""
    descriptor = None
    try:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        if descriptor is not None:
            os.close(descriptor)


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
    return error.strerror or one_line(error)
