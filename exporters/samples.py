"""Rows of the neurons' values, evenly out of the calibration data: what thresholds and centres are chosen on.

They lie in a file a block, so that memory does not grow with the data nor with the number of blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.calibration import hidden_output
from lazyneuron.exporters.examples import Example
from lazyneuron.exporters.masks import real_rows
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.progress import Progress

__all__ = ["MOST_EXAMPLES", "MOST_ROWS", "Samples", "collect_samples"]

MOST_ROWS = 2048
"""Of a block: about so many rows are kept."""
MOST_EXAMPLES = 512
"""They are from at most so many examples."""
_MOST_BYTES = 256 << 20
"""What a batch may give at once; of more blocks than that the model is run again."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Where the rows of each block lie, by the name of its output."""

    files: dict[str, tuple[Path, int]]

    def of(self, key: str) -> NDArray[np.float32]:
        """Return a block's rows, [rows, d_ff], without those that hold what is not finite."""
        path, width = self.files[key]
        rows = np.fromfile(path, np.float32).reshape(-1, width)
        return rows[np.isfinite(rows).all(axis=1)]


def collect_samples(measured: Measured, folder: Path, progress: Progress) -> Samples:
    """Run the dense graph over calibration examples and keep rows, real ones only.

    Scratch space: at most about 2,048 · 4 · d_ff bytes a block.

    Parameters
    ----------
    measured
        Of a graph that gives the neurons' values (`measure(…, hidden=True)`).
    folder
        An existing one.
    """
    blocks = measured.ledger.blocks
    examples = -(-measured.used // -(-measured.used // MOST_EXAMPLES))
    progress.step("keeping rows of the neurons' values", examples)
    with ExitStack() as stack:
        files = {}
        kept = []
        for i, (key, block) in enumerate(blocks.items()):
            files[key] = (folder / f"hidden.{i}", block.d_ff)
            rows = measured.counts[i].rows * examples / max(measured.used, 1)
            kept.append(_Kept(stack.enter_context(files[key][0].open("wb")), min(1.0, MOST_ROWS / max(rows, 1.0))))
        numbered = list(enumerate(blocks.values()))
        for feed in measured.feeds(_counted(measured.used_examples(MOST_EXAMPLES), progress)):
            for group in _groups(numbered, measured, feed):
                values = measured.session.run([hidden_output(i) for i, _ in group], feed)
                for (i, block), hidden in zip(group, values, strict=True):
                    real = real_rows(measured.dense.inputs, block.rows, feed)
                    kept[i].add(hidden if real is None else hidden[real.reshape(-1)])
    return Samples(files)


class _Kept:
    """Appends one block's rows, leaving out as many as it must, evenly."""

    def __init__(self, file: BinaryIO, share: float) -> None:
        self._file, self._share, self._seen = file, share, 0

    def add(self, rows: NDArray[np.float32]) -> None:
        place = np.floor(np.arange(self._seen, self._seen + len(rows) + 1) * self._share)
        self._seen += len(rows)
        self._file.write(rows[np.diff(place) > 0].tobytes())


def _groups(
    blocks: Sequence[tuple[int, Block]], measured: Measured, feed: Feed
) -> Iterator[Sequence[tuple[int, Block]]]:
    """Give the blocks in parts whose values together take no more than `_MOST_BYTES`, or one by one."""
    size = len(next(iter(feed.values())))
    group: list[tuple[int, Block]] = []
    held = 0.0
    for number, block in blocks:
        # About: a batch of long examples has more rows than the average one.
        rows = size * measured.counts[number].rows / max(measured.used, 1)
        more = 4 * block.d_ff * rows
        if group and held + more > _MOST_BYTES:
            yield group
            group, held = [], 0.0
        group.append((number, block))
        held += more
    yield group


def _counted(examples: Iterator[Example], progress: Progress) -> Iterator[Example]:
    for example in examples:
        yield example
        progress.advance()
