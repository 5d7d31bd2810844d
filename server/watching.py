"""Following a repository's folder: by the kernel's events, with a look from time to time beside.

The looks find what events do not tell: changes on a network file system, and a folder that has gone and come back.
"""

import asyncio
import logging
from pathlib import Path

from watchfiles import awatch

from lazyneuron.server.config import RepositoryConfig
from lazyneuron.server.repository import Repository

__all__ = ["watch"]

_log = logging.getLogger(__name__)

_GATHER_MILLISECONDS, _STEP_MILLISECONDS = 500, 50
"""Events that come within a step of one another are one change, for at most so long."""


async def watch(repository: Repository, config: RepositoryConfig) -> None:
    """Look at the folder after every change of it, until cancelled."""
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change; we tell what came of it
    while True:
        try:
            if config.watch == "events" and repository.path.is_dir():
                await _follow(repository, config)
            else:
                await repository.rescan()
        except Exception:  # noqa: BLE001  what goes wrong once must not end the watch
            _log.exception("watching %s failed; trying again", repository.path)
        await asyncio.sleep(config.rescan_seconds)


async def _follow(repository: Repository, config: RepositoryConfig) -> None:
    """Follow the kernel's events for as long as the folder is the one that it was."""
    root = repository.path.resolve()
    first = _identity(root)
    try:
        changes = awatch(
            root,
            watch_filter=lambda _, path: _visible(root, path),
            debounce=_GATHER_MILLISECONDS,
            step=_STEP_MILLISECONDS,
            rust_timeout=max(1, round(config.rescan_seconds * 1000)),
            yield_on_timeout=True,
        )
        async for _ in changes:
            await repository.rescan()
            if first is None or _identity(repository.path) != first:
                return
    except OSError as error:  # too many watches, or none on this file system
        _log.warning("no events for %s (%s); it is looked at every %g s", root, error, config.rescan_seconds)
        await _poll(repository, config)


async def _poll(repository: Repository, config: RepositoryConfig) -> None:
    while True:
        await repository.rescan()
        await asyncio.sleep(config.rescan_seconds)


def _visible(root: Path, path: str) -> bool:
    """Leave out what lies under a name that begins with a dot, as a version does while it is written."""
    try:
        parts = Path(path).relative_to(root).parts
    except ValueError:
        return True
    return not any(part.startswith(".") for part in parts)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
