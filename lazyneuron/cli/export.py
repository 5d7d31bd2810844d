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
    from lazyneuron.exporters.plan_file import Plan, WholeModel

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
@click.option(
    "--evaluate",
    type=click.Path(path_type=Path),
    help="Labelled data that calibration has not seen: judge the artifact on it; the report says go or no-go.",
)
@click.option("--task", type=click.Choice(TASKS), help="By default what the checkpoint says.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="auto",
    show_default=True,
    help="auto: for each block the cheapest whose output is the dense one's, by measured costs; with "
    "--max-quality-drop predictors and thresholds are weighed, too.",
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
    "--density",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Keep this share of each block's neurons, by a threshold on their magnitude that calibration data chooses.",
)
@click.option(
    "--recover-mean/--no-recover-mean",
    default=True,
    show_default=True,
    help="Whether neurons that a threshold or cap leaves out may count with their mean, where that helps.",
)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    help="What predictors and thresholds may cost together, as a share measured on held-out data; the worst blocks go "
    "back to what costs nothing until it is kept. By default auto uses none, and who asks for one by name gets it.",
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
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    default="none",
    show_default=True,
    help="int8: also quantise the products outside the sparse operators, which changes outputs.",
)
@click.option(
    "--plan", type=click.Path(path_type=Path), help="Do what this plan says: an artifact's plan.json, edited."
)
@click.option(
    "--costs",
    type=click.Path(path_type=Path),
    metavar="FILE|cuda:GPU",
    help="The costs that auto goes by; by default this machine's, as `lazyneuron bench --operators` left them. "
    "cuda:a100, cuda:h100, cuda:h200: what the GPU's data sheet allows, not measured.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Rows (tokens) of a call, for which auto chooses; by default a calibration example's.",
)
@click.option("--explain", is_flag=True, help="Print the alternatives that were weighed for each block.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(
    checkpoint: str,
    output: Path,
    *,
    explain: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 (click's values)
) -> None:
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
        if explain:
            _explain(report.plan)


def _how(block: "BlockPlan") -> str:
    if block.mode == "exact":
        return "; exact"
    predictor = ""
    if block.predictor_rank is not None and block.predictor_recall is not None:
        predictor = f" of rank {block.predictor_rank}, held-out recall {100 * block.predictor_recall:.2f} %"
    return f"; {block.mode}{predictor}, {100 * block.candidates:.2f} % computed"


def _show(report: "ExportReport") -> None:
    manifest = report.manifest
    click.echo(f"{report.path}")
    for block in manifest.blocks:
        cap = f", at most {block.top_k}" if block.top_k else ""
        cap += f", above {block.threshold:.3g}" if block.threshold else ""
        cap += ", the mean of the others recovered" if block.centred else ""
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
    if report.plan.measured_here is False:
        click.echo(f"note: {report.plan.costs}")
    click.echo(f"report: {report.report}")
    if report.evaluation is not None:
        click.echo(report.evaluation.verdict.sentence)


def _explain(plan: "Plan") -> None:
    """Print what was weighed, in microseconds a row."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if plan.costs is None:
        click.echo(f"plan: {plan.blocks[0].reason or 'as given'}; nothing was weighed (--mode auto weighs)")
        return
    modes = list(dict.fromkeys(a.mode for block in plan.blocks for a in block.alternatives))
    table = Table(title=f"Predicted µs a row, in calls of {plan.rows} rows", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("block", overflow="fold", min_width=8)
    for header in ("density", "candidates", *modes, "plan"):
        table.add_column(header, justify="right", no_wrap=True)
    for block in plan.blocks:
        screened = [a.candidates for a in block.alternatives if a.mode == "certified"]
        shares = [_share(block.density), _share(screened[0] if screened else None)]
        costs = [_micro(block.cost_of(mode)) for mode in modes]
        table.add_row(block.name, *shares, *costs, block.mode)
    table.add_section()
    table.add_row("all", "", "", *(_micro(plan.total(mode)) for mode in modes), _micro(plan.total()))
    Console().print(table)
    for block in plan.blocks:
        for other in block.lossy:
            drop = "" if other.drop is None else f", alone {_share(other.drop)} of quality"
            click.echo(f"{block.name}: {other.words}: {_micro(other.microseconds_per_row)} µs a row{drop}")
    if plan.whole_model is not None:
        click.echo(_whole(plan.whole_model))
    click.echo(plan.costs)


def _whole(whole: "WholeModel") -> str:
    dense, planned = whole.dense_milliseconds, whole.predicted_milliseconds
    call = f"{whole.rows} rows, {whole.threads} thread(s)"
    return f"The whole model, {call}: dense {dense:.3g} ms measured, as planned {planned:.3g} ms predicted"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _micro(cost: float | None) -> str:
    return "–" if cost is None else f"{cost:.3g}"
