"""`lazyneuron inspect`: how sparse a checkpoint is, before exporting anything."""

import json
import sys
from collections.abc import Sequence
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
@click.option("--plot", type=click.Path(path_type=Path), help="Draw each block's plots to this .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(checkpoint: str, calibration: Path | None, plot: Path | None, *, as_json: bool) -> None:
    """Measure how sparse CHECKPOINT's MLP blocks are.

    CHECKPOINT is a Hugging Face folder or hub name, a dense .onnx file, or FILE.py:FUNCTION, which returns a torch
    module and example inputs.
    """
    from lazyneuron.exporters import inspect
    from lazyneuron.exporters.progress import progress_on

    if plot is not None:
        from lazyneuron.exporters.plots import check_name, save_plots

        check_name(plot)
    with progress_on(sys.stderr) as progress:
        report = inspect(checkpoint, calibration, progress=progress)
    if plot is not None and report.blocks:
        save_plots(plot, report.blocks)
    elif plot is not None:
        click.echo(f"{plot}: not drawn, for there is no MLP block", err=True)
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        _show(report)


def _show(report: "SparsityReport") -> None:
    from rich.console import Console

    console = Console()
    if report.blocks:
        console.print(_densities(report))
        console.print(_sharing(report))
        if any(len(block.positions) > 1 for block in report.blocks):
            console.print(_positions(report))
        if report.calibration.kind != "random":
            rows = max(block.density.rows for block in report.blocks)
            console.print(f"Over {rows} rows of {report.calibration.name} ({report.calibration.examples} examples).")
    for warning in report.warnings:
        console.print(warning, style="yellow", markup=False, highlight=False)
    verdict = report.verdict
    console.print(verdict.sentence, style=None if verdict.helps else "bold yellow", markup=False, highlight=False)
    for skipped in report.skipped:
        console.print(f"not taken: {skipped.name}: {skipped.reason}", markup=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("block", overflow="fold", min_width=8)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _densities(report: "SparsityReport") -> "Table":
    capped = any(block.top_k for block in report.blocks)
    highest = max(block.density.p99 for block in report.blocks)
    columns = ("d_ff", *(["k"] if capped else []), "mean", "±", "p95", "p99", f"rows, 0 to {highest:.0%}")
    table = _table("Density: the share of neurons active in a row (±: its 95 % interval)", columns)
    table.columns[-1].justify = "left"
    for block in report.blocks:
        d = block.density
        half = None if block.interval is None else (block.interval[1] - block.interval[0]) / 2
        shares = [_share(share) for share in (d.mean, half, d.p95, d.p99)]
        sizes = [str(block.d_ff), *([str(block.top_k or "–")] if capped else [])]
        table.add_row(_name(block), *sizes, *shares, _curve(block, highest))
    return table


def _sharing(report: "SparsityReport") -> "Table":
    first = report.blocks[0]
    unions = [f"n = {rows}" for rows in first.unions]
    table = _table(
        "Neurons active in any of n rows, left by the certified screen, and never active; the hottest's activations",
        (*unions, "screen", "never", *(f"hot {percent} %" for percent in first.hottest)),
    )
    for block in report.blocks:
        neurons = (*block.unions.values(), block.candidates, block.density.never_active)
        table.add_row(block.name, *map(_share, (*neurons, *block.hottest.values())))
    return table


def _positions(report: "SparsityReport") -> "Table":
    columns = list(dict.fromkeys(str(at) for block in report.blocks for at in block.positions))
    table = _table("Density by a row's position in its example", columns)
    for block in report.blocks:
        found = {str(at): at.density for at in block.positions}
        table.add_row(block.name, *(_share(found.get(column)) for column in columns))
    return table


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


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
