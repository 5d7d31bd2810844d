"""What a graph keeps resident once it is opened and has run: measured in a process of its own.

`python -m lazyneuron.exporters.evaluation.memory GRAPH FEED.npz THREADS sparse|dense` prints the bytes.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lazyneuron.exporters.batches import Feed

__all__ = ["Memory", "measure_memory"]

_SELF = Path("/proc/self/smaps_rollup")
_RUNS = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that each graph adds to a process: its weights, arenas and the operators' packed copies."""

    dense_bytes: int
    sparse_bytes: int


def measure_memory(dense: Path, sparse: Path, feed: Feed, threads: int, scratch: Path) -> Memory | None:
    """Measure both graphs on one batch; None where the system does not tell (it is read from Linux's `/proc`)."""
    if not _SELF.exists():
        return None
    path = scratch / "feed.npz"
    np.savez(path, allow_pickle=False, **feed)
    return Memory(_resident(dense, path, threads, "dense"), _resident(sparse, path, threads, "sparse"))


def _resident(graph: Path, feed: Path, threads: int, kind: str) -> int:
    command = [sys.executable, "-m", __name__, str(graph), str(feed), str(threads), kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  our own interpreter and file
    return int(json.loads(done.stdout))


def _now() -> int:
    fields = dict(line.split(":", 1) for line in _SELF.read_text().splitlines()[1:])
    return 1024 * int(fields["Rss"].split()[0])


def _main(graph: str, feed: str, threads: str, kind: str) -> None:
    from lazyneuron.engine.session import open_session, operator_library

    with np.load(feed, allow_pickle=False) as file:
        arrays = dict(file)
    operator_library()
    before = _now()
    session = open_session(Path(graph), threads=int(threads), sparse=kind == "sparse")
    for _ in range(_RUNS):
        session.run(None, arrays)
    sys.stdout.write(json.dumps(max(_now() - before, 0)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
