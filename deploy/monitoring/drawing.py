"""Draw the dashboards' data, as their panels ask for it, without Grafana: `python -m deploy.monitoring.drawing`."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from deploy.monitoring.asking import AUTOMATIC, Api, AskError, Panel, Series, fill, panels
from lazyneuron.engine.documents import written_beside

__all__ = ["Span", "draw"]

_ROW_INCHES, _COLUMN_INCHES = 0.34, 0.62
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Span:
    """What is drawn of the time.

    Attributes
    ----------
    start, end
        Unix seconds.
    step
        Seconds between two points.
    marks
        Names of what began when (Unix seconds), drawn as vertical lines.
    """

    start: float
    end: float
    step: float
    marks: Mapping[str, float]


def draw(document: Mapping[str, Any], api: Api, span: Span, variables: Mapping[str, str], path: Path) -> None:
    """Ask what a dashboard's panels ask, and draw it where the panels stand.

    Parameters
    ----------
    document
        The dashboard's JSON.
    api
        Prometheus.
    span
        The time that is drawn.
    variables
        Values of the variables in its expressions.
    path
        The picture, PNG.

    Raises
    ------
    AskError
        If Prometheus does not answer.
    OSError
        If the picture cannot be written; nothing is left behind.
    """
    shown = list(panels(document))
    rows = max(panel.place["y"] + panel.place["h"] for panel in shown)
    with mpl.rc_context({"font.size": 7, "axes.titlesize": 8, "axes.titleweight": "bold", "legend.fontsize": 5.5}):
        figure = Figure((24 * _COLUMN_INCHES, (rows + 2) * _ROW_INCHES), dpi=72)
        figure.suptitle(document["title"], x=0.01, y=1 - 0.5 / (rows + 2), ha="left", fontsize=13)
        for panel in shown:
            axes = _place(figure, panel, rows)
            if axes is None:
                continue
            answers = _ask(panel, api, span, variables)
            (_PAINTERS[panel.kind] if answers else _nothing)(_Asked(axes, panel, answers, span))
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
    with written_beside(path) as beside:
        # A few dozen colours, which take a third of the space.
        Image.open(drawn).convert("RGB").quantize(64).save(beside, "PNG", optimize=True)


def _place(figure: Figure, panel: Panel, rows: int) -> Axes | None:
    """Return where a panel is drawn; None for a row's heading, which is written at once."""
    place, height = panel.place, rows + 2
    top = 1 - (place["y"] + 2) / height
    if panel.kind == "row":
        figure.text(0.01, top - 0.75 / height, panel.title, fontsize=10, color="0.35")
        return None
    left, low = (place["x"] + 1.1) / 24, top - (place["h"] - 0.9) / height
    size = ((place["w"] - 1.5) / 24, (place["h"] - 2.3) / height)
    axes = figure.add_axes((left, low, *size))
    axes.set_title(panel.title, loc="left", pad=3)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _ask(panel: Panel, api: Api, span: Span, variables: Mapping[str, str]) -> list[tuple[str, Series, bool]]:
    return [
        (_name(legend, series.labels), series, number in panel.dashed)
        for number, (expression, legend) in enumerate(panel.queries)
        for series in api.over(fill(expression, variables), span.start, span.end, span.step)
        if not all(math.isnan(value) for _, value in series.points)
    ]


@dataclass(frozen=True)
class _Asked:
    """A panel with what Prometheus answered.

    Attributes
    ----------
    answers
        Names, series, and whether each is drawn dashed.
    """

    axes: Axes
    panel: Panel
    answers: Sequence[tuple[str, Series, bool]]
    span: Span


def _name(legend: str, labels: Mapping[str, str]) -> str:
    if legend == AUTOMATIC:
        return " ".join(labels.values())
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def _nothing(asked: _Asked) -> None:
    asked.axes.set_axis_off()
    asked.axes.text(0.5, 0.5, "no data", transform=asked.axes.transAxes, ha="center", color="0.5")


def _lines(asked: _Asked) -> None:
    axes, panel, answers, span = asked.axes, asked.panel, asked.answers, asked.span
    colours: dict[frozenset[tuple[str, str]], str] = {}
    for name, series, dashed in answers:
        times, values = (np.array(column) for column in zip(*series.points, strict=True))
        # What something is compared with has its colour.
        key = frozenset(series.labels.items())
        if not dashed or key not in colours:
            colours[key] = f"C{len(axes.lines) % 10}"
        axes.plot(times - span.start, values, label=name, color=colours[key], lw=1, ls="--" if dashed else "-")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value, panel.unit)))
    axes.legend(loc="upper left", frameon=False, ncols=1 + len(answers) // 6)
    _time(axes, span)


def _cells(asked: _Asked) -> None:
    axes, answers, span = asked.axes, asked.answers, asked.span
    buckets = sorted((float(series.labels["le"]), dict(series.points)) for _, series, _ in answers)
    times = sorted({when for _, points in buckets for when in points})
    counts = np.array([[points.get(when, np.nan) for when in times] for _, points in buckets])
    each = np.diff(counts, axis=0, prepend=0)
    axes.pcolormesh(
        np.array(times) - span.start, np.arange(len(buckets)), np.where(each > 0, each, np.nan) ** 0.5, cmap="Oranges"
    )
    bounds = [f"≤ {bound:g}" for bound, _ in buckets]
    axes.set_yticks(np.arange(len(buckets))[::2], bounds[::2])
    _time(axes, span)


def _number(asked: _Asked) -> None:
    axes, panel, answers = asked.axes, asked.panel, asked.answers
    axes.set_axis_off()
    for _, series, _ in answers:
        times, values = (np.array(column) for column in zip(*series.points, strict=True))
        axes.fill_between(times, values, min(0.0, float(np.nanmin(values))), alpha=0.2)
        text = _written(values[~np.isnan(values)][-1], panel.unit)
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=14, weight="bold")


def _bars(asked: _Asked) -> None:
    axes, panel, answers = asked.axes, asked.panel, asked.answers
    known = [(name, series.points[-1][1]) for name, series, _ in answers]
    known.sort(reverse=True)
    names, values = zip(*known, strict=True)
    axes.barh(names, values, color=["C0" if "exported" not in name else "0.7" for name in names])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value, panel.unit)))
    # Names stand on the bars: there is no room beside them.
    axes.set_yticks([])
    for place, name in enumerate(names):
        axes.text(0, place, f" {name}: {_written(values[place], panel.unit)}", va="center", fontsize=6)


def _states(asked: _Asked) -> None:
    axes, answers, span = asked.axes, asked.answers, asked.span
    for place, (name, series, _) in enumerate(sorted(answers, key=lambda answer: answer[0])):
        for when, value in series.points:
            colour = "tab:green" if "alertname" not in series.labels else "tab:red" if value == 2 else "tab:orange"
            axes.broken_barh([(when - span.start, span.step)], (place - 0.35, 0.7), color=colour)
        axes.text(0, place, f" {name}", va="center", fontsize=6)
    axes.set_yticks([])
    _time(axes, span)


def _table(asked: _Asked) -> None:
    axes, answers = asked.axes, asked.answers
    axes.set_axis_off()
    labels = sorted({label for _, series, _ in answers for label in series.labels} - {"__name__"})
    cells = [[series.labels.get(label, "") for label in labels] for _, series, _ in answers]
    axes.table(cells, colLabels=labels, loc="upper center", cellLoc="left")


def _time(axes: Axes, span: Span) -> None:
    for name, when in span.marks.items():
        if span.start <= when < span.end:
            axes.axvline(when - span.start, color="0.6", lw=0.6, ls=":")
            axes.text(
                when - span.start,
                1,
                f" {name}",
                transform=axes.get_xaxis_transform(),
                fontsize=5,
                color="0.4",
                va="top",
            )
    axes.set_xlim(0, span.end - span.start)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: f"{datetime.fromtimestamp(span.start + seconds, UTC):%H:%M:%S}")
        if not span.marks
        else FuncFormatter(lambda seconds, _: f"{seconds:.0f} s")
    )


_PAINTERS: dict[str, Callable[[_Asked], None]] = {
    "bargauge": _bars,
    "heatmap": _cells,
    "stat": _number,
    "state-timeline": _states,
    "table": _table,
    "timeseries": _lines,
}


def _written(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}" if abs(value) >= 0.1 or value == 0 else f"{value:.1%}"
    if unit == "s":
        return f"{value:g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    name = {"reqps": " /s", "bytes": "B", "flops": "FLOP/s"}.get(unit, "")
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{name.strip()}"
    return f"{value:.3g}{name}"


@click.command()
@click.option("--prometheus", default="http://127.0.0.1:9090", show_default=True, help="The server's address.")
@click.option("--minutes", type=click.FloatRange(1), default=60, show_default=True, help="How far back.")
@click.option("--price", default="0.20", show_default=True, help="Of a server, an hour; in any currency.")
@click.argument("output", type=click.Path(file_okay=False, exists=True, path_type=Path))
def main(prometheus: str, minutes: float, price: str, output: Path) -> None:
    """Draw each dashboard's data of the last minutes into OUTPUT, a folder, as Grafana would show it."""
    end = time.time()
    span = Span(end - 60 * minutes, end, max(15.0, minutes * 60 / 240), {})
    variables = {"model": ".*", "version": ".*", "instance": ".*", "price": price}
    variables["__rate_interval"] = f"{max(60, round(4 * span.step))}s"
    for path in sorted((Path(__file__).parents[1] / "grafana" / "dashboards").glob("*.json")):
        picture = output / f"{path.stem}.png"
        try:
            draw(json.loads(path.read_text()), Api(prometheus), span, variables, picture)
        except AskError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{picture}: cannot be written: {error.strerror}") from error
        click.echo(picture)


if __name__ == "__main__":
    main()
