"""`lazyneuron export`: a checkpoint to a sparse artifact."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazyneuron.exporters.settings import MODES, QUANTIZATIONS, TASKS

if TYPE_CHECKING:
    from lazyneuron.exporters import ExportReport

__all__ = ["command"]


def _top_k(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Read `auto`, or a whole number of at least 1."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither auto nor a whole number of at least 1", ctx, param)
    return int(value)


@click.command()
@click.argument("checkpoint")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The model's folder, such as models/NAME."
)
@click.option("--name", help="The model's name; by default the folder's.")
@click.option("--version", type=click.IntRange(min=1), help="By default the next free one.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="JSON Lines or .npz with real input; without it the input is random.",
)
@click.option("--task", type=click.Choice(TASKS), help="By default what the checkpoint says.")
@click.option(
    "--mode", type=click.Choice(MODES), default="auto", show_default=True, help="auto is exact in this version."
)
@click.option(
    "--top-k",
    callback=_top_k,
    default="auto",
    show_default=True,
    metavar="auto|K",
    help="The most neurons a row may use in a block; auto: the model's own gate.",
)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="What modes that are not exact may cost.",
)
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    default="none",
    show_default=True,
    help="int8: also quantise the products outside the sparse operators, which changes outputs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(checkpoint: str, output: Path, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 (click's values)
    """Turn CHECKPOINT into a sparse artifact, OUTPUT/VERSION.

    CHECKPOINT is a Hugging Face folder or hub name, a dense .onnx file, or FILE.py:FUNCTION, which returns a torch
    module and example inputs.
    """
    from lazyneuron.exporters import export
    from lazyneuron.exporters.progress import progress_on

    with progress_on(sys.stderr) as progress:
        report = export(checkpoint, output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        _show(report)


def _show(report: "ExportReport") -> None:
    manifest = report.manifest
    click.echo(f"{report.path}")
    for block in manifest.blocks:
        cap = f", at most {block.top_k}" if block.top_k else ""
        click.echo(f"  {block.name}: density {100 * block.density.mean:.2f} % of {block.d_ff} neurons{cap}")
    for skipped in report.sparsity.skipped:
        click.echo(f"  not taken: {skipped.name}: {skipped.reason}")
    if manifest.quality is not None:
        error = max(output.max_rel_error for output in manifest.quality.outputs)
        click.echo(f"sparse against dense: largest error {error:.1e} of the largest output")
    for note in manifest.notes:
        click.echo(f"note: {note}")
    click.echo(f"report: {report.report}")
