"""`lazyneuron evaluate`: an artifact against its dense graph on labelled data, and whether to use it."""

import json
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help='JSON Lines or .npz in the calibration format, with a "label" in each line where there are labels.',
)
@click.option(
    "--against",
    metavar="CHECKPOINT",
    help="Compare with this checkpoint or artifact instead of MODEL's own dense graph: with what a tuned model was.",
)
@click.option(
    "--corruptions",
    is_flag=True,
    help="Compare on corrupted data, too: images with noise, texts with typos or without some tokens (slow).",
)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="The loss that the verdict allows: of accuracy or agreement, or the share by which perplexity rises.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of ONNX Runtime; by default one a core, as in serving.")
@click.option("--page", type=click.Path(path_type=Path), help="Write a page for a person to this file, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(model: Path, *, page: Path | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401 (click's values)
    """Compare the artifact MODEL with its dense graph on data: what it loses, what it saves, go or no-go.

    The dense graph is made of the artifact's own. Language models are judged by the texts themselves; without labels
    the artifact is judged by how often it agrees with the dense graph.
    """
    from lazyneuron.cli.evaluate_tables import show_evaluation
    from lazyneuron.exporters import evaluate
    from lazyneuron.exporters.progress import progress_on

    with progress_on(sys.stderr) as progress:
        report = evaluate(model, progress=progress, **options)
    if page is not None:
        from lazyneuron.engine.documents import write_text
        from lazyneuron.engine.errors import ConfigurationError
        from lazyneuron.exporters.page import render_evaluation

        try:
            write_text(page, render_evaluation(report))
        except OSError as error:
            raise ConfigurationError(f"{page}: cannot be written: {error.strerror or error}") from error
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        show_evaluation(report)
