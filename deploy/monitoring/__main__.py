"""Write the dashboards and the rules: `python -m deploy.monitoring`."""

from pathlib import Path

import click
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.monitoring.capacity import capacity
from deploy.monitoring.keys import refuse_unknown_keys
from deploy.monitoring.overview import overview
from deploy.monitoring.records import Objectives
from deploy.monitoring.rules import RUNBOOKS, rule_file
from deploy.monitoring.sparsity import sparsity
from lazyneuron.engine.documents import write_text

__all__ = ["documents", "main"]

RULES = "prometheus/lazyneuron.rules.yaml"
DASHBOARDS = "grafana/dashboards"

_DEFAULT = Objectives()
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


def documents(objectives: Objectives | None = None, runbooks: str = RUNBOOKS) -> dict[str, str]:
    """Return the text of every file that is written, by its path under `deploy/`."""
    objectives = objectives or Objectives()
    found = {RULES: rule_file(objectives, runbooks=runbooks)}
    for make in (overview, sparsity, capacity):
        made = make(objectives)
        text = JSONEncoder(indent=2, ensure_ascii=False).encode(made) + "\n"
        refuse_unknown_keys(text)
        found[f"{DASHBOARDS}/{made.uid}.json"] = text
    return found


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parents[1],
    help="The folder in which grafana/ and prometheus/ are written; absent: deploy/.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where a file is not as it would be written.")
@click.option(
    "--runbooks", default=RUNBOOKS, show_default=True, help="What stands before a runbook's name in an alert."
)
@click.option(
    "--latency-seconds",
    type=click.Choice(["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0"]),
    default=str(_DEFAULT.latency_seconds),
    show_default=True,
    help="What a request may take.",
)
@click.option("--latency", type=_SHARE, default=_DEFAULT.latency, show_default=True, help="The share that is as quick.")
@click.option("--success", type=_SHARE, default=_DEFAULT.success, show_default=True, help="The share that is served.")
@click.option(
    "--drift",
    type=click.FloatRange(1, min_open=True),
    default=_DEFAULT.drift,
    show_default=True,
    help="How many times its exported density a block may have; as many times less, too.",
)
@click.option(
    "--saved",
    type=click.FloatRange(0, 1),
    default=_DEFAULT.saved,
    show_default=True,
    help="The share of the MLP blocks' FLOPs that has to be saved.",
)
def main(
    output: Path,
    *,
    check: bool,
    runbooks: str,
    latency_seconds: str,
    latency: float,
    success: float,
    drift: float,
    saved: float,
) -> None:
    """Write the Grafana dashboards and the Prometheus rules, for these objectives."""
    objectives = Objectives(
        latency_seconds=float(latency_seconds), latency=latency, success=success, drift=drift, saved=saved
    )
    stale = []
    for name, text in documents(objectives, runbooks).items():
        path = output / name
        if check:
            stale += [str(path)] if not path.is_file() or path.read_text() != text else []
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        except OSError as error:
            raise click.ClickException(f"{path}: cannot be written: {error.strerror}") from error
        click.echo(path)
    if stale:
        raise click.ClickException(f"not as `python -m deploy.monitoring` writes them: {', '.join(stale)}")


if __name__ == "__main__":
    main()
