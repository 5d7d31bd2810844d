"""From a checkpoint to its blocks and their densities: what `inspect` and `export` have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path

from lazyneuron.engine.artifact import Calibration
from lazyneuron.engine.errors import CalibrationError, LazyneuronError, one_line
from lazyneuron.exporters.batches import Feed, batch_size, batches
from lazyneuron.exporters.blocks import Ledger, find_blocks
from lazyneuron.exporters.calibration import BlockCounts, calibrate, count_outputs
from lazyneuron.exporters.examples import Example, ExampleSet, random_examples, read_examples
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.sessions import Reopened, open_model, spill
from lazyneuron.exporters.sources import DenseModel, read_checkpoint

__all__ = ["Measured", "count_held_out", "measure", "open_checkpoint"]

_HELD_OUT = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """Blocks with what they did on the calibration rows.

    Attributes
    ----------
    counts
        One a block, in the ledger's order.
    session
        The dense graph; it counts, too. Whoever opens another graph closes it.
    examples
        All of them.
    held_out
        How many of the last ones were left for the comparison; all of them if there are few.
    batch_size
        How many are run at once.
    """

    dense: DenseModel
    ledger: Ledger
    counts: list[BlockCounts]
    session: Reopened
    examples: ExampleSet
    held_out: int
    batch_size: int

    @property
    def used(self) -> int:
        """How many examples were counted."""
        return self.examples.count if self.held_out == self.examples.count else self.examples.count - self.held_out

    @property
    def calibration(self) -> Calibration:
        """What the densities were measured on, for the manifest."""
        kind = "random" if self.examples.name is None else "data"
        return Calibration(kind=kind, name=self.examples.name, examples=self.examples.count)

    def used_examples(self, most: int) -> Iterator[Example]:
        """Give at most so many of the examples that were counted, evenly out of all of them."""
        step = -(-self.used // most)
        return islice(self.examples.read(), 0, self.used, step)

    def held_out_examples(self) -> Iterator[Example]:
        """Give the examples that were left for the comparison."""
        return islice(self.examples.read(), self.examples.count - self.held_out, None)

    def feeds(self, examples: Iterator[Example]) -> Iterator[Feed]:
        """Join examples to batches."""
        return batches(examples, self.dense.inputs, self.batch_size)


def open_checkpoint(
    checkpoint: str, task: str | None, scratch: Path, progress: Progress, *, cache: Path | None = None
) -> tuple[DenseModel, Ledger]:
    """Read a checkpoint, leave its weights in a file under `scratch`, and find its blocks."""
    progress.step(f"reading {checkpoint}")
    dense = read_checkpoint(checkpoint, task, cache)
    spill(dense.model, scratch)
    progress.step("finding MLP blocks")
    return dense, find_blocks(dense.model)


def measure(
    dense: DenseModel,
    ledger: Ledger,
    calibration: Path | None,
    *,
    scratch: Path,
    size: int,
    hold_out: bool,
    progress: Progress,
    rows: bool = False,
    hidden: bool = False,
) -> Measured:
    """Run the dense graph over the calibration data and count.

    Parameters
    ----------
    calibration
        A person's file; None: random input.
    scratch
        A folder for the graph.
    size
        Examples in a batch, where the model leaves a choice.
    hold_out
        Whether to leave a part of the examples for a comparison.
    rows
        Whether the graph gives the blocks' rows too, for predictors.
    hidden
        Whether it gives the neurons' values too, for thresholds.

    Raises
    ------
    CalibrationError
        If the data does not fit the model.
    """
    blocks = list(ledger.blocks.values())
    examples = read_examples(calibration, dense) if calibration is not None else random_examples(dense)
    size = batch_size(dense.inputs, size)
    held_out = _held_out(examples.count, size) if hold_out else 0
    counting = count_outputs(dense.model, blocks, dense.inputs, rows=rows, hidden=hidden)
    session = open_model(counting, scratch / "dense.onnx", sparse=False)
    measured = Measured(dense, ledger, [], session, examples, held_out, size)
    progress.step("calibrating", measured.used)
    counts = _count(measured, islice(examples.read(), measured.used), progress)
    return replace(measured, counts=counts)


def count_held_out(measured: Measured, progress: Progress) -> list[BlockCounts]:
    """Count what the blocks do on the held-out examples; where these were counted already, return nothing new.

    Raises
    ------
    CalibrationError
        If the data does not fit the model.
    """
    if measured.held_out == measured.examples.count:
        return [BlockCounts.empty(block.d_model, block.d_ff) for block in measured.ledger.blocks.values()]
    progress.step("calibrating on what was held out", measured.held_out)
    return _count(measured, measured.held_out_examples(), progress)


def _count(measured: Measured, examples: Iterator[Example], progress: Progress) -> list[BlockCounts]:
    blocks = list(measured.ledger.blocks.values())
    try:
        feeds = measured.feeds(_counted(examples, progress))
        return calibrate(measured.session, blocks, measured.dense.inputs, feeds)
    except LazyneuronError:
        raise
    except Exception as error:
        raise _does_not_run(measured.examples, error) from error


def _does_not_run(examples: ExampleSet, error: Exception) -> CalibrationError:
    given = examples.name or "random input (give --calibration with real data)"
    return CalibrationError(f"{given}: the model fails on it: {one_line(error, 300)}")


def _held_out(count: int, size: int) -> int:
    """Return how many examples to hold out: a tenth, at least a batch; all, if that would leave too few."""
    wanted = max(ceil(count * _HELD_OUT), size)
    return wanted if wanted <= count // 2 else count


def _counted(examples: Iterator[Example], progress: Progress) -> Iterator[Example]:
    for example in examples:
        yield example
        progress.advance()
