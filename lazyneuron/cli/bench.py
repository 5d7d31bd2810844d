"""`lazyneuron bench`: how fast an artifact is on this machine, or the operators by themselves."""

import json
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]

_RIVALS = ("dense", "int8")


def _against(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if unknown := [name for name in names if name not in _RIVALS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(_RIVALS)}", ctx, param)
    if not names:
        raise click.BadParameter(f"expected some of {', '.join(_RIVALS)}", ctx, param)
    return names


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--operators", is_flag=True, help="Measure the operators instead, and keep their costs for the planner.")
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), help="Examples; may be repeated. By default 1, 8."
)
@click.option(
    "--length",
    "lengths",
    multiple=True,
    type=click.IntRange(min=1),
    help="Rows (tokens) of each; may be repeated. By default 16, 128.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of ONNX Runtime; by default one a core, as in serving.")
@click.option(
    "--against",
    default="dense,int8",
    show_default=True,
    callback=_against,
    help="The dense graph, and that graph in ONNX Runtime's dynamic int8.",
)
@click.option("--calibration", type=click.Path(path_type=Path), help="Real input; without it the input is random.")
@click.option("--quick", "grid", flag_value="quick", help="With --operators: half a minute, float32 weights alone.")
@click.option("--full", "grid", flag_value="full", help="With --operators: about 10 minutes, more shapes and runs.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --operators: the costs' file; by default $LAZYNEURON_COSTS, or one in the user's cache folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(
    model: Path | None,
    *,
    operators: bool,
    grid: str | None,
    output: Path | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401 (click's values)
) -> None:
    """Measure the artifact MODEL, or with --operators what MLP blocks cost on this machine (2 minutes).

    All contenders are timed in turns. The dense graph is made of the artifact's own.
    """
    if operators == (model is not None):
        raise click.UsageError("give either MODEL or --operators")
    if not operators and (grid is not None or output is not None):
        raise click.UsageError("--quick, --full and --output go with --operators")
    if operators:
        own = {"--batch": "batches", "--length": "lengths", "--calibration": "calibration"}
        if wrong := [flag for flag, name in own.items() if options[name]]:
            raise click.UsageError(f"{wrong[0]} goes with MODEL")
        _operators(grid or "default", options["threads"], output, as_json=as_json)
    else:
        assert model is not None
        _artifact(model, options, as_json=as_json)


def _operators(grid: str, threads: int | None, output: Path | None, *, as_json: bool) -> None:
    from lazyneuron.cli.bench_tables import costs_document, show_costs
    from lazyneuron.engine.cost_files import COSTS_VARIABLE, costs_path, is_gpu, write_costs
    from lazyneuron.exporters import bench_operators
    from lazyneuron.exporters.progress import progress_on

    path = costs_path(output)
    if output is None and is_gpu(path):
        raise click.UsageError(f"{COSTS_VARIABLE}={path} names a GPU's roofline, not a file; give --output FILE")
    with progress_on(sys.stderr) as progress:
        costs = bench_operators(grid, threads=threads, progress=progress)
    write_costs(costs, path)
    if as_json:
        click.echo(json.dumps({"path": str(path), **costs_document(costs)}))
    else:
        show_costs(costs)
        click.echo(f"kept for `lazyneuron export` in {path}")


def _artifact(model: Path, options: dict[str, Any], *, as_json: bool) -> None:
    from lazyneuron.cli.bench_tables import show_artifact
    from lazyneuron.exporters import bench_artifact
    from lazyneuron.exporters.progress import progress_on

    with progress_on(sys.stderr) as progress:
        report = bench_artifact(model, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        show_artifact(report)
