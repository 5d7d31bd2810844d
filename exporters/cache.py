"""A folder that outlives an export, so that the next one goes on from there.

What lies in it is keyed by content: the digests of the checkpoint and of the calibration file, and all settings that
matter. Nothing in it is ever stale, and all of it may be deleted.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["default_cache", "entry", "prune"]

_DAYS_KEPT = 14


def default_cache() -> Path:
    """Return `$LAZYNEURON_CACHE`, or `lazyneuron` in the user's folder of caches."""
    if given := os.environ.get("LAZYNEURON_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lazyneuron"


def entry(cache: Path, kind: str, content: Mapping[str, object]) -> Path:
    """Return the folder of what these contents determine; it need not be there."""
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    return cache / kind / key


def prune(cache: Path, kind: str) -> None:
    """Delete the folders of a kind that no export has come back to for two weeks."""
    oldest = time.time() - _DAYS_KEPT * 86400
    for folder in (cache / kind).glob("*"):
        if folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
