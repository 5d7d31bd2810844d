"""Measure how long predictors take to train, and how good they are before and after tuning.

Without a checkpoint: blocks of T5-Base's encoder (d_model 768, d_ff 3072), three neurons in a hundred active, and
50,000 rows. Rows and neurons are Gaussian in a common rotated basis whose variances fall off exponentially, so that a
predictor of rank 64 needs about what was measured for trained weights; on Gaussian rows the closed form leaves tuning
nothing to gain, and its time is what is measured. Excluded is running the model to get the rows.

With one: its own blocks, on its own calibration data. Both tables are on rows that were held out: "closed form" is
reduced-rank regression alone at the same rank and the same way to its threshold, "tuned" what an export takes.

    python benchmarks/predictors.py [--blocks N] [--rows N] [--rank R]
    python benchmarks/predictors.py CHECKPOINT CALIBRATION.jsonl [--rank R]
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import onnxruntime
import torch

from lazyneuron.exporters.measure import measure, open_checkpoint
from lazyneuron.exporters.predictors.block import BlockSettings, train_block
from lazyneuron.exporters.predictors.predictor import Spread
from lazyneuron.exporters.predictors.rows import MOST_ROWS, BlockRows, collect, spread_of
from lazyneuron.exporters.predictors.tuning import TuningSettings
from lazyneuron.exporters.progress import Silent

D_MODEL, D_FF, DENSITY, FALL = 768, 3072, 0.03, 30.0
ROWS_AN_EXAMPLE = 100

Given = tuple[object, BlockRows, Spread]


def synthetic(blocks: int, rows: int) -> Iterator[Given]:
    """Draw blocks with their rows, a tenth of them held out."""
    for seed in range(blocks):
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((D_MODEL, D_MODEL)))[0].T
        deviations = np.exp(-0.5 * np.arange(D_MODEL) / FALL)
        deviations *= np.sqrt(D_MODEL / np.square(deviations).sum())
        x = np.empty((rows, D_MODEL), np.float16)
        fired = np.empty((rows, D_FF // 8), np.uint8)
        up = (((rng.standard_normal((D_FF, D_MODEL)) * deviations) @ basis) / np.sqrt(D_MODEL)).astype(np.float32)
        bias = np.zeros(D_FF, np.float32)
        for first in range(0, rows, 2000):
            part = x[first : first + 2000]
            drawn = ((rng.standard_normal(part.shape) * deviations) @ basis).astype(np.float32)
            part[:] = drawn
            pre = drawn @ up.T
            if first == 0:
                bias = -np.quantile(pre, 1 - DENSITY, axis=0).astype(np.float32)
            fired[first : first + 2000] = np.packbits(pre + bias > 0, axis=1)
        example = (np.arange(rows) // ROWS_AN_EXAMPLE).astype(np.int32)
        kept = BlockRows(x, fired, example, int(example[-1]) * 9 // 10, D_FF)
        down = rng.standard_normal((D_FF, D_MODEL)).astype(np.float32)
        block = SimpleNamespace(
            name=f"block {seed}",
            d_model=D_MODEL,
            d_ff=D_FF,
            top_k=0,
            activation="relu",
            up=SimpleNamespace(weight=SimpleNamespace(read=lambda up=up: up.T), bias=bias),
            down=SimpleNamespace(weight=SimpleNamespace(read=lambda down=down: down)),
        )
        yield block, kept, Spread(np.zeros(D_MODEL, np.float32), np.ones(D_MODEL, np.float32))


def trained(checkpoint: str, calibration: Path, scratch: Path) -> Iterator[Given]:
    """Run a checkpoint on its data and give its blocks with their rows."""
    dense, ledger = open_checkpoint(checkpoint, None, scratch, Silent())
    measured = measure(dense, ledger, calibration, scratch=scratch, size=8, hold_out=True, progress=Silent(), rows=True)
    folder = collect(measured, scratch, Silent())
    for number, block in enumerate(ledger.blocks.values()):
        yield block, BlockRows.read(folder, number, block), spread_of(measured, number)


def show(given: Iterator[Given], rank: int | None) -> None:
    click.echo(f"{'block':24} {'rank':>5}  {'closed form':>20}  {'tuned':>20}  {'energy':>8}  {'wall':>7}  {'CPU':>7}")
    for block, rows, spread in given:
        wall, cpu = time.perf_counter(), time.process_time()
        tuned = train_block(block, rows, spread, BlockSettings(rank=rank), progress=Silent(), what="")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if tuned is None:
            click.echo(f"{block.name:24} no predictor pays")
            continue
        untuned = BlockSettings(rank=tuned.rank, tuning=TuningSettings(epochs=0))
        closed = train_block(block, rows, spread, untuned, progress=Silent(), what="")
        cells = [f"{100 * p.held_out.recall:6.2f} % at {p.held_out.ratio:5.2f} x" for p in (closed, tuned)]
        click.echo(
            f"{block.name:24} {tuned.rank:5}  {cells[0]:>20}  {cells[1]:>20}  {100 * tuned.held_out.energy:6.2f} %"
            f"  {wall:5.1f} s  {cpu:5.1f} s"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(f"peak memory {peak:.0f} MiB")


@click.command()
@click.argument("checkpoint", required=False)
@click.argument("calibration", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--blocks", default=12, show_default=True, help="Synthetic ones.")
@click.option("--rows", default=MOST_ROWS, show_default=True, help="Of each.")
@click.option("--rank", type=int, help="By default chosen for each block.")
def main(checkpoint: str | None, calibration: Path | None, blocks: int, rows: int, rank: int | None) -> None:
    """Print a line for each block: held-out recall, and candidates for each active neuron."""
    if checkpoint and not calibration:
        raise click.UsageError("a checkpoint needs a calibration file")
    click.echo(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), ONNX Runtime {onnxruntime.__version__}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        given = trained(checkpoint, calibration, Path(scratch)) if calibration else synthetic(blocks, rows)
        show(given, rank)


if __name__ == "__main__":
    main()
