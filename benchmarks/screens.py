"""Does the certified screen gain by a rotation, or by channels that stay floats? Candidates for each active neuron.

The screen compares q · round(z) with what the codes' roundings can amount to (engine/native/kernels/screen.h). Less
error a code means fewer candidates. Three ways to less, beyond the shift and scale that calibration fits: an orthogonal
rotation that spreads outliers over all channels (a Walsh–Hadamard transform with random signs, whose padding to a power
of two is counted as free), and channels that are left out of the codes and added up in float32, those first whose rows
and weights are largest. All on rows that calibration has not seen; counted in float64, without the bound's own slack.

    python benchmarks/screens.py CHECKPOINT CALIBRATION.jsonl [--float-channels 8] [--rows 2000]
"""

import tempfile
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lazyneuron.exporters.measure import measure, open_checkpoint
from lazyneuron.exporters.predictors.rows import BlockRows, collect, spread_of
from lazyneuron.exporters.progress import Silent
from lazyneuron.exporters.screens import ChannelSums, balanced

Array = NDArray[np.float64]
LIMIT = 127.0


def candidates(x: Array, up: Array, bias: Array, exact: Array | float = 0.0) -> NDArray[np.bool_]:
    """Return which neurons [rows, d_ff] the screen lets through.

    Parameters
    ----------
    x
        [rows, d], in the screen's coordinates.
    up
        [d_ff, d], likewise.
    bias
        [d_ff].
    exact
        [rows, d_ff]: what is added in float.
    """
    step = np.abs(up).max(axis=1) / LIMIT
    step[step == 0] = 1.0
    weights, inverse = up / step[:, None], LIMIT / np.maximum(np.abs(x).max(axis=1), 1e-30)
    codes, z = np.rint(weights), x * inverse[:, None]
    rounded = np.rint(z)
    spread = np.linalg.norm(weights - codes, axis=1)
    size = np.linalg.norm(codes, axis=1)
    bound = spread * np.linalg.norm(z, axis=1)[:, None] + size * np.linalg.norm(z - rounded, axis=1)[:, None]
    rest = (bias + exact) / step * inverse[:, None]
    return rounded @ codes.T + rest + bound > 0


def rotation(d: int, seed: int = 0) -> Array:
    """Return [d, power of two ≥ d]: random signs, then the orthonormal Walsh–Hadamard matrix."""
    size = 1 << (d - 1).bit_length()
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], d)
    return signs[:, None] * matrix[:d] / np.sqrt(size)


def outliers(factor: float, channels: int, d: int) -> Array:
    """Return factors [d] that make a few channels large, as trained language models have them."""
    factors = np.ones(d)
    factors[np.random.default_rng(0).choice(d, channels, replace=False)] = factor
    return factors


def ways(x: Array, up: Array, bias: Array, seen: Array, float_channels: int) -> dict[str, float]:
    """Return by way of screening the candidates for each active neuron, on rows x [rows, d]; `seen` calibrates."""
    screen = balanced(ChannelSums(seen.sum(axis=0), np.square(seen).sum(axis=0), len(seen)), up)
    shift, scale = screen.shift.astype(np.float64), screen.scale.astype(np.float64)
    moved, fitted = (x - shift) / scale, up * scale
    offset = bias + up @ shift
    turn = rotation(x.shape[1])
    largest = np.argsort(-np.sqrt(np.square((seen - shift) / scale).mean(axis=0)) * np.abs(fitted).max(axis=0))
    kept, left = largest[:float_channels], largest[float_channels:]
    flags = {
        "as given": candidates(x, up, bias),
        "shift and scale": candidates(moved, fitted, offset),
        "and rotated": candidates(moved @ turn, fitted @ turn, offset),
        f"and {float_channels} float channels": candidates(
            moved[:, left], fitted[:, left], offset, moved[:, kept] @ fitted[:, kept].T
        ),
    }
    active = x @ up.T + bias > 0
    for way, flag in flags.items():
        if (active & ~flag).any():
            raise SystemExit(f"{way}: an active neuron was screened out")
    return {way: flag.sum() / active.sum() for way, flag in flags.items()}


@click.command()
@click.argument("checkpoint")
@click.argument("calibration", type=click.Path(path_type=Path, exists=True))
@click.option("--float-channels", default=8, show_default=True, type=click.IntRange(1))
@click.option("--rows", default=2000, show_default=True, help="The most that are screened, of those held out.")
@click.option("--outlier", default=30.0, show_default=True, help="By how much a few channels are made larger.")
def main(checkpoint: str, calibration: Path, float_channels: int, rows: int, outlier: float) -> None:
    """Print a line for each block, as it is and with planted outlier channels (the function stays the same)."""
    console, table = Console(), Table()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        dense, ledger = open_checkpoint(checkpoint, None, scratch, Silent())
        measured = measure(
            dense, ledger, calibration, scratch=scratch, size=8, hold_out=True, progress=Silent(), rows=True
        )
        collected = collect(measured, scratch, Silent())
        for number, block in enumerate(ledger.blocks.values()):
            kept, spread = BlockRows.read(collected, number, block), spread_of(measured, number)
            x = np.asarray(kept.x, np.float64) * spread.deviation + spread.mean
            up = np.asarray(block.up.weight.read(), np.float64).T
            bias = np.zeros(len(up)) if block.up.bias is None else np.asarray(block.up.bias, np.float64)
            held_out = kept.example >= kept.held_out
            for plain in (True, False):
                factor = np.ones(x.shape[1]) if plain else outliers(outlier, 4, x.shape[1])
                of = ways((x * factor)[held_out][:rows], up / factor, bias, (x * factor)[~held_out], float_channels)
                if not table.columns:
                    for column in ("block", *of):
                        table.add_column(column, justify="right" if table.columns else "left", no_wrap=True)
                name = block.name if plain else f"… 4 channels × {outlier:g}"
                table.add_row(name, *(f"{share:.3f}" for share in of.values()))
    console.print(table)


if __name__ == "__main__":
    main()
