"""The rows that predictors learn from: block inputs and which neurons fired, in files of bounded size.

A row of a block takes 2 · d_model + d_ff / 8 bytes: its input in float16, standardised, and a bit a neuron. What a
neuron's value was is computed again from the input and the up projection where it is needed.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import BATCH_AXIS
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.calibration import row_outputs
from lazyneuron.exporters.examples import Example
from lazyneuron.exporters.masks import real_rows
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.predictors.predictor import Spread
from lazyneuron.exporters.progress import Progress

__all__ = ["MOST_ROWS", "BlockRows", "collect", "spread_of"]

MOST_ROWS = 50_000
"""Rows kept of a block; of more, every so many-th is."""
_TENTH = 10
_META = "rows.json"


@dataclass(frozen=True, slots=True)
class BlockRows:
    """A block's rows.

    Attributes
    ----------
    x
        float16 [rows, d_model], standardised.
    fired
        uint8 [rows, d_ff / 8 rounded up]: a bit a neuron, as `np.packbits` has them.
    example
        int32 [rows]: the example that each row is of, ascending.
    held_out
        The first example that was held out.
    d_ff
        Neurons.
    """

    x: NDArray[np.float16]
    fired: NDArray[np.uint8]
    example: NDArray[np.int32]
    held_out: int
    d_ff: int

    @classmethod
    def read(cls, folder: Path, number: int, block: Block) -> Self:
        """Open what `collect` left of the block of that number."""
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))

        def array(kind: str, dtype: type, width: int) -> NDArray[np.generic]:
            path = folder / f"{kind}.{number}"
            flat = np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
            return flat.reshape(-1, width)

        x = array("x", np.float16, block.d_model)
        fired = array("fired", np.uint8, -(-block.d_ff // 8))
        example = np.array(array("example", np.int32, 1)).reshape(-1)
        return cls(x, fired, example, meta["held_out"], block.d_ff)  # type: ignore[arg-type]  # the dtypes asked for

    def fit(self) -> NDArray[np.intp]:
        """Return which rows the weights are fitted on."""
        return np.flatnonzero((self.example < self.held_out) & ~self._tenth())

    def threshold(self) -> NDArray[np.intp]:
        """Return which rows the threshold is chosen on: those of every tenth example, out of all parts of the data."""
        return np.flatnonzero((self.example < self.held_out) & self._tenth())

    def test(self) -> NDArray[np.intp]:
        """Return which rows were held out."""
        return np.flatnonzero(self.example >= self.held_out)

    def inputs(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return rows of x."""
        return self.x[rows].astype(np.float32)

    def active(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which neurons fired: [rows, d_ff]."""
        return np.unpackbits(self.fired[rows], axis=1, count=self.d_ff).view(np.bool_)

    def _tenth(self) -> NDArray[np.bool_]:
        tenth: NDArray[np.bool_] = self.example % _TENTH == _TENTH - 1
        return tenth


def spread_of(measured: Measured, number: int) -> Spread:
    """Return how the input of the block of that number is standardised."""
    channels = measured.counts[number].channels
    return Spread.of(channels.total, channels.squares, channels.rows)


def collect(measured: Measured, folder: Path, progress: Progress, *, most_rows: int = MOST_ROWS) -> Path:
    """Run the dense graph over all examples and keep rows; nothing is done where that was done before.

    Parameters
    ----------
    measured
        Of a graph that gives rows (`measure(…, rows=True)`).
    folder
        Where the rows' folder is or will be; it appears when it is whole.
    most_rows
        The most rows of a block, about.

    Returns
    -------
    The rows' folder, for `BlockRows.read`.
    """
    rows = folder / "rows"
    if (rows / _META).is_file():
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="rows.tmp-", dir=folder))
    try:
        _write(measured, made, most_rows, progress)
        measured.session.close()  # what is trained next needs the memory
        meta = {"held_out": measured.examples.count - measured.held_out}
        (made / _META).write_text(json.dumps(meta), encoding="utf-8")
        shutil.rmtree(rows, ignore_errors=True)
        made.rename(rows)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(made, ignore_errors=True)
        raise
    return rows


class _File:
    """Appends one block's rows, leaving out as many as it must, evenly.

    Parameters
    ----------
    keep
        The share of rows to keep.
    """

    def __init__(self, folder: Path, number: int, spread: Spread, keep: float, files: ExitStack) -> None:
        def opened(kind: str) -> BinaryIO:
            return files.enter_context((folder / f"{kind}.{number}").open("wb"))

        self._x, self._fired, self._example = opened("x"), opened("fired"), opened("example")
        self._spread = spread
        self._keep = keep
        self._seen = 0

    def add(self, x: NDArray[np.float32], fired: NDArray[np.bool_], example: NDArray[np.int32]) -> None:
        place = np.floor(np.arange(self._seen, self._seen + len(x) + 1) * self._keep)
        self._seen += len(x)
        kept = np.diff(place) > 0
        standard = self._spread.standard(x[kept])
        largest = np.finfo(np.float16).max
        self._x.write(np.clip(standard, -largest, largest).astype(np.float16).tobytes())
        self._fired.write(np.packbits(fired[kept], axis=1).tobytes())
        self._example.write(example[kept].astype(np.int32).tobytes())


def _write(measured: Measured, folder: Path, most_rows: int, progress: Progress) -> None:
    blocks: Sequence[Block] = list(measured.ledger.blocks.values())
    inputs = measured.dense.inputs
    # Calibration has counted the rows of all examples but the held-out ones.
    share = (measured.examples.count - measured.held_out) / measured.examples.count
    fetches = [name for i in range(len(blocks)) for name in row_outputs(i)]
    progress.step("keeping rows for the predictors", measured.examples.count)
    with ExitStack() as stack:
        files = [
            _File(folder, i, spread_of(measured, i), min(1.0, most_rows * share / max(counts.rows, 1)), stack)
            for i, counts in enumerate(measured.counts)
        ]
        first = 0
        for feed in measured.feeds(_counted(measured.examples.read(), progress)):
            size = len(next(iter(feed.values())))
            values = measured.session.run(fetches, feed)
            for i, block in enumerate(blocks):
                x, fired = values[2 * i : 2 * i + 2]
                example = first + _example_of(block, len(x), size)
                real = real_rows(inputs, block.rows, feed)
                if real is not None:
                    chosen = real.reshape(-1)
                    x, fired, example = x[chosen], fired[chosen], example[chosen]
                files[i].add(x, fired, example)
            first += size


def _example_of(block: Block, rows: int, examples: int) -> NDArray[np.int32]:
    """Return the example of a batch that each row is of.

    Rows that do not go by examples count as the batch's last one's: all are held out of a batch that has such examples.
    """
    if block.rows[:1] != (BATCH_AXIS,):
        return np.full(rows, examples - 1, np.int32)
    return (np.arange(rows) * examples // max(rows, 1)).astype(np.int32)


def _counted(examples: Iterator[Example], progress: Progress) -> Iterator[Example]:
    for example in examples:
        yield example
        progress.advance()
