"""`lazyneuron selfcheck`: whether the operators compute on a device what they should, and how fast."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lazyneuron.engine.devices.choice import Device
    from lazyneuron.engine.gpu.selfcheck import Check
    from lazyneuron.engine.gpu.speed import Speed

__all__ = ["command"]

_WIDTH = 100  # columns that the tables need


@click.command()
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N",
    help="auto: the first GPU, else the CPU.",
)
@click.option("--short", is_flag=True, help="Small data alone, and no speed: a second or so.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(device: str, *, short: bool, as_json: bool) -> None:
    """Check the operators' kernels on this machine, in every mode and with every type of weights.

    A GPU's are compared with the CPU's, those of every instruction set of the CPU with the operators in NumPy; then
    they are timed beside the dense block. Exit status 0: all agree; 1: some do not.
    """
    from lazyneuron.engine.gpu.selfcheck import full
    from lazyneuron.engine.gpu.speed import measure

    place = _place(device)
    checks = full(place, small=short, told=None if as_json else _progress(place))
    wrong = [found for check in checks for found in check.disagreements]
    speeds = [] if short or wrong else list(measure(place))
    if as_json:
        click.echo(json.dumps(_document(place, checks, speeds)))
    else:
        _show(checks, speeds)
        for found in wrong:
            click.echo(str(found))
        click.echo(_verdict(place, checks))
    if wrong:
        sys.exit(1)


def _place(device: str) -> "Device":
    """Return the device that is asked for, which is there."""
    from lazyneuron.engine.devices.choice import CPU, Device
    from lazyneuron.engine.devices.found import lacking
    from lazyneuron.engine.errors import ConfigurationError

    if device == "auto":
        first = Device("cuda")
        return CPU if lacking(first) else first
    try:
        place = Device.of(device)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    if why := lacking(place):
        click.echo(f"error: --device {place} cannot be used: {why}", err=True)
        sys.exit(2)
    return place


def _progress(place: "Device") -> Any:  # noqa: ANN401 (a callback or none)
    """Return what tells of each check on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    return lambda check: click.echo(f"\r\x1b[K{place}: {check.case.name} ({check.case.data})", err=True, nl=False)


def _show(checks: "Sequence[Check]", speeds: "Sequence[Speed]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from lazyneuron.engine.gpu.selfcheck import TOLERANCE

    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    title = f"Largest error of y, as a share of its largest entry; {TOLERANCE:.0e} is allowed"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    kinds = list(dict.fromkeys(check.case.weights for check in checks))
    for header in ("operator", "data", *kinds):
        table.add_column(header, justify="right" if header in kinds else "left", no_wrap=True)
    rows: dict[tuple[str, str], dict[str, list[Check]]] = {}
    for check in checks:
        operator = check.case.name.rpartition(",")[0]
        rows.setdefault((operator, check.case.data), {}).setdefault(check.case.weights, []).append(check)
    for names, cells in rows.items():
        table.add_row(*names, *(_cell(cells.get(kind, ())) for kind in kinds))
    console = Console(width=max(Console().width, _WIDTH))  # a narrow terminal wraps it, and cuts nothing off
    console.print(table)
    if len(places := list(dict.fromkeys(check.where for check in checks))) > 1:
        click.echo(f"each of {', '.join(places)}: the largest is shown")
    if speeds:
        console.print(_speed_table(speeds))


def _speed_table(speeds: "Sequence[Speed]") -> Any:  # noqa: ANN401 (rich's table)
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"µs a call, and times as fast as the dense block; 768 / 3072, {100 * speeds[0].density:g} % active"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    kinds = list(speeds[0].dense)
    for header in ("mode", "weights", "rows", "µs", *(f"dense {kind}" for kind in kinds)):
        table.add_column(header, justify="left" if header in {"mode", "weights"} else "right", no_wrap=True)
    for speed in speeds:
        rivals = [f"{1e6 * speed.dense[kind]:.1f} µs, {speed.times_as_fast(kind):.2f} ×" for kind in kinds]
        table.add_row(speed.mode, speed.weights, str(speed.rows), f"{1e6 * speed.seconds:.1f}", *rivals)
    return table


def _cell(checks: "Sequence[Check]") -> str:
    """Return the worst of a case's errors; empty where there is none of the kind."""
    if not checks:
        return ""
    if any(math.isnan(check.error) for check in checks):
        return "failed"
    wrong = any(check.disagreements for check in checks)
    return f"{max(check.error for check in checks):.0e}" + (" ✗" if wrong else "")


def _verdict(place: "Device", checks: "Sequence[Check]") -> str:
    from lazyneuron.engine.gpu.places import described

    wrong = sum(bool(check.disagreements) for check in checks)
    if not wrong:
        return f"selfcheck: all {len(checks)} checks agree on {described(place)}"
    return f"selfcheck: {wrong} of {len(checks)} checks disagree on {described(place)}; do not serve on it"


def _document(place: "Device", checks: "Sequence[Check]", speeds: "Sequence[Speed]") -> dict[str, Any]:
    """Return all of it for JSON; an error that is not known is null."""
    from lazyneuron.engine.gpu.places import described
    from lazyneuron.engine.gpu.selfcheck import TOLERANCE

    return {
        "device": str(place),
        "name": described(place),
        "agrees": not any(check.disagreements for check in checks),
        "tolerance": TOLERANCE,
        "checks": [
            {
                "operator": check.case.operator,
                "mode": check.case.mode,
                "weights": check.case.weights,
                "data": check.case.data,
                "on": check.where,
                "error": None if math.isnan(check.error) else check.error,
                "disagreements": [found.figures for found in check.disagreements],
            }
            for check in checks
        ],
        "speed": [asdict(speed) for speed in speeds],
    }
