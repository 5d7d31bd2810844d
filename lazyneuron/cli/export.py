"""`lazyneuron export`: a checkpoint to a sparse artifact."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazyneuron.exporters.settings import MODES, QUANTIZATIONS, TASKS

if TYPE_CHECKING:
    from lazyneuron.engine.artifact import BlockPlan
    from lazyneuron.exporters import ExportReport

__all__ = ["command"]


def _auto_or_count(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
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
    callback=_auto_or_count,
    default="auto",
    show_default=True,
    metavar="auto|K",
    help="The most neurons a row may use in a block; auto: the model's own gate.",
)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    help="What predictors may cost together, as a share measured on held-out data; the worst blocks go back to "
    "certified until it is kept. By default whatever the recall costs.",
)
@click.option(
    "--predictor-recall",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.99,
    show_default=True,
    help="The share of active neurons that a predictor has to keep.",
)
@click.option(
    "--predictor-rank",
    callback=_auto_or_count,
    default="auto",
    show_default=True,
    metavar="auto|R",
    help="auto: for each block by cost.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Where interrupted work is kept, to go on from; by default LAZYNEURON_CACHE, or the user's folder of caches.",
)
@click.option("--quantize", type=click.Choice(QUANTIZATIONS), default="none", show_default=True)
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


def _how(block: "BlockPlan") -> str:
    if block.mode == "exact":
        return ""
    predictor = ""
    if block.predictor_rank is not None and block.predictor_recall is not None:
        predictor = f" of rank {block.predictor_rank}, held-out recall {100 * block.predictor_recall:.2f} %"
    return f"; {block.mode}{predictor}, {100 * block.candidates:.2f} % computed"


def _show(report: "ExportReport") -> None:
    manifest = report.manifest
    click.echo(f"{report.path}")
    for block in manifest.blocks:
        cap = f", at most {block.top_k}" if block.top_k else ""
        click.echo(
            f"  {block.name}: density {100 * block.density.mean:.2f} % of {block.d_ff} neurons{cap}{_how(block)}"
        )
    for skipped in report.sparsity.skipped:
        click.echo(f"  not taken: {skipped.name}: {skipped.reason}")
    if manifest.quality is not None:
        error = max(output.max_rel_error for output in manifest.quality.outputs)
        click.echo(f"sparse against dense: largest error {error:.1e} of the largest output")
    for note in manifest.notes:
        click.echo(f"note: {note}")
    click.echo(f"report: {report.report}")
