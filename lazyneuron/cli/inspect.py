"""`lazyneuron inspect`: how sparse a checkpoint is, before exporting anything."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from lazyneuron.exporters import SparsityReport
    from lazyneuron.exporters.reports import BlockSparsity

__all__ = ["command"]

_LEVELS = " ▁▂▃▄▅▆▇█"
_BINS = 12


@click.command()
@click.argument("checkpoint")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="JSON Lines or .npz with real input; without it the input is random.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(checkpoint: str, calibration: Path | None, *, as_json: bool) -> None:
    """Measure how sparse CHECKPOINT's MLP blocks are.

    CHECKPOINT is a Hugging Face folder or hub name, a dense .onnx file, or FILE.py:FUNCTION, which returns a torch
    module and example inputs.
    """
    from lazyneuron.exporters import inspect
    from lazyneuron.exporters.progress import progress_on

    with progress_on(sys.stderr) as progress:
        report = inspect(checkpoint, calibration, progress=progress)
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        _show(report)


def _show(report: "SparsityReport") -> None:
    from rich.console import Console

    console = Console()
    if report.blocks:
        console.print(_table(report))
        rows = max(block.density.rows for block in report.blocks)
        if report.calibration.kind == "random":
            console.print("[yellow]On random input, which says little about real input: give --calibration.[/yellow]")
        else:
            console.print(f"Over {rows} rows of {report.calibration.name} ({report.calibration.examples} examples).")
    verdict = report.verdict
    console.print(verdict.sentence, style=None if verdict.helps else "bold yellow", markup=False, highlight=False)
    for skipped in report.skipped:
        console.print(f"not taken: {skipped.name}: {skipped.reason}", markup=False, soft_wrap=True)


def _table(report: "SparsityReport") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    capped = any(block.top_k for block in report.blocks)
    highest = max(block.density.p99 for block in report.blocks)
    table = Table(title="Density: the share of neurons active in a row", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("block", overflow="fold", min_width=8)
    for column in ("d_ff", *(["k"] if capped else []), "mean", "p95", "p99", "never"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(f"rows, 0 to {highest:.0%}", no_wrap=True)
    for block in report.blocks:
        d = block.density
        shares = [f"{100 * share:.2f} %" for share in (d.mean, d.p95, d.p99, d.never_active)]
        sizes = [str(block.d_ff), *([str(block.top_k or "–")] if capped else [])]
        table.add_row(_name(block), *sizes, *shares, _curve(block, highest))
    return table


def _name(block: "BlockSparsity") -> str:
    """Return a block's name, with its activation where that is not the plain one."""
    kind = f"gated {block.activation}" if block.gated else block.activation
    return block.name if kind == "relu" else f"{block.name} ({kind})"


def _curve(block: "BlockSparsity", highest: float) -> str:
    """Draw how many rows had which density, on an axis that all blocks share."""
    bins = [0] * _BINS
    for active, rows in enumerate(block.histogram.tolist()):
        place = active / block.d_ff / highest * _BINS if highest else 0
        bins[min(int(place), _BINS - 1)] += rows
    top = max(bins) or 1
    # The ceiling, so that no bin with rows in it looks empty.
    return "".join(_LEVELS[-(-n * (len(_LEVELS) - 1) // top)] for n in bins)
