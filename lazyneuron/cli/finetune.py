"""`lazyneuron finetune`: a checkpoint to a sparser one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazyneuron.exporters.settings import TASKS

if TYPE_CHECKING:
    from lazyneuron.exporters.finetune.api import FinetuneReport

__all__ = ["command"]

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint")
@click.option("--output", required=True, type=_FILE, help="The folder to write: a checkpoint of the same kind.")
@click.option(
    "--data",
    required=True,
    multiple=True,
    type=_FILE,
    help="Text, JSON Lines or .npz to train on; give it again for more files, which are mixed.",
)
@click.option(
    "--teacher",
    metavar="CHECKPOINT",
    help="Learn this dense model's answers instead of CHECKPOINT's own: to tune further what was tuned.",
)
@click.option("--validation", type=_FILE, help="A file to measure on; by default a share of the data is held out.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="That share.",
)
@click.option("--top-k", type=click.IntRange(min=1), metavar="K", help="The most neurons a row uses in a block.")
@click.option("--relufy", is_flag=True, help="Put ReLU in the place of GELU and SiLU.")
@click.option(
    "--sparsity-penalty",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="W",
    help="What the spread of a block's values weighs in the loss.",
)
@click.option(
    "--lm-weight",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="What the next token's own loss weighs; the rest is the distance from the dense model.",
)
@click.option("--steps", type=click.IntRange(min=1), help="When to end; 1000, where --minutes is not given either.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="When to end, in minutes of training.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Examples in a step.")
@click.option("--length", type=click.IntRange(min=2), help="Tokens in an example; by default 128, if it takes as many.")
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), default=2e-4, show_default=True, help="AdamW's."
)
@click.option("--task", type=click.Choice(TASKS), help="By default what the checkpoint says.")
@click.option(
    "--validate-every", type=click.IntRange(min=1), default=100, show_default=True, help="Steps between measurements."
)
@click.option(
    "--save-every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps between saved states."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of all that is drawn.")
@click.option("--resume", is_flag=True, help="Go on from an interrupted run, if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(
    checkpoint: str,
    output: Path,
    *,
    as_json: bool,
    **options: Any,  # noqa: ANN401 (click's values)
) -> None:
    """Train CHECKPOINT, a Hugging Face folder or hub name, to use fewer neurons; write it as OUTPUT.

    The model learns to answer as it did when it was dense: with --top-k, while only the K largest neurons of each row
    are kept; with --relufy, while ReLU stands in the place of GELU or SiLU.
    """
    from lazyneuron.exporters.finetune import finetune
    from lazyneuron.exporters.progress import progress_on

    with progress_on(sys.stderr) as progress:
        report = finetune(checkpoint, output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        _show(report)


def _show(report: "FinetuneReport") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    vectors = report.task in {"feature-extraction", "sentence-embedding", "image-feature-extraction"}
    table = Table(title=f"On {report.held_out} held-out examples", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("model")
    perplexed = report.figures["dense"]["perplexity"] is not None
    heads = [*(["perplexity"] if perplexed else []), "cosine" if vectors else "same answer", "distance", "density"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    names = {"dense": "dense", "untrained": "sparse, untrained", "tuned": "sparse, tuned"}
    for key, name in names.items():
        figures = report.figures[key]
        agreement = f"{figures['agreement']:.4f}" if vectors else f"{100 * figures['agreement']:.1f} %"
        row = [agreement, f"{figures['distance']:.4g}", f"{100 * figures['density']:.2f} %"]
        table.add_row(name, *([f"{figures['perplexity']:.2f}"] if perplexed else []), *row)
    Console().print(table)
    click.echo(f"{report.steps} steps, {report.minutes:.1f} minutes ({report.cpu_minutes:.1f} of a CPU)")
    click.echo(f"{report.path}")
