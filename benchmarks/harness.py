"""What the benchmarks share: ratios with their spread, naming the machine, and pictures."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
from matplotlib.figure import Figure  # not pyplot: no display is looked for

from lazyneuron.engine.machine import instruction_set, processor

__all__ = [
    "LEAST_RUNS",
    "Ratio",
    "bars",
    "curves",
    "machine",
    "ratio",
]

LEAST_RUNS = 9
_OURS = ("#f4a259", "#e76f51", "#c1121f", "#780000", "#ffb4a2", "#9d0208")
_OTHERS = ("#343a40", "#868e96", "#1d4e89", "#4f86c6", "#9ecae1", "#1b7a5a", "#57b894", "#a9dcc3", "#5e548e", "#b8a9d9")


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: first quartile, median and third quartile over the rounds."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:6.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return base over other, round by round, so that a change of the machine's clock meets both."""
    return Ratio(*statistics.quantiles([b / o for b, o in zip(base, other, strict=True)], n=4))


def machine(threads: int) -> str:
    """Return one line that names what a table was measured on."""
    return f"{processor()}, {instruction_set()}, ONNX Runtime {onnxruntime.__version__}, {threads} thread(s)"


def bars(
    path: Path,
    title: str,
    panels: Mapping[str, Mapping[str, Mapping[str, Ratio]]],
    base: str,
    ours: Callable[[str], bool],
) -> None:
    """Draw ratios as bars, whiskers from the first to the third quartile; ours in warm colours.

    Parameters
    ----------
    panels
        panel -> group along the x axis -> bar -> how many times as fast as `base`.
    """
    figure = Figure(figsize=(10.5, 3.6 * len(panels)), layout="constrained")
    every = figure.subplots(len(panels), squeeze=False)[:, 0]
    names = list(dict.fromkeys(name for groups in panels.values() for bar in groups.values() for name in bar))
    width = 0.86 / len(names)
    warm, cold = iter(_OURS), iter(_OTHERS)
    colours = {name: next(warm if ours(name) else cold) for name in names}
    for axes, (panel, groups) in zip(every, panels.items(), strict=True):
        for i, name in enumerate(names):
            at = [g + (i - (len(names) - 1) / 2) * width for g, bar in enumerate(groups.values()) if name in bar]
            drawn = [bar[name] for bar in groups.values() if name in bar]
            spread = [[r.middle - r.low for r in drawn], [r.high - r.middle for r in drawn]]
            axes.bar(at, [r.middle for r in drawn], width, yerr=spread, label=name, color=colours[name])
        highest = max(r.middle for bar in groups.values() for r in bar.values())
        axes.set_ylim(0, 1.15 * highest)  # a whisker of a disturbed run may leave the picture
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_ylabel(f"times as fast as {base}")
        axes.set_title(panel, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", frameon=False, ncols=5, loc="outside lower center")
    _save(figure, path)


def curves(path: Path, title: str, series: Mapping[str, Mapping[float, Ratio]], x: str, base: str) -> None:
    """Draw ratios as curves over shares, on logarithmic axes, with a band from the first to the third quartile."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, points), colour in zip(series.items(), _OURS, strict=False):
        at = [100 * share for share in points]
        axes.plot(at, [r.middle for r in points.values()], marker="o", color=colour, label=name)
        axes.fill_between(
            at, [r.low for r in points.values()], [r.high for r in points.values()], color=colour, alpha=0.2
        )
    medians = [r.middle for points in series.values() for r in points.values()]
    axes.set_ylim(min([0.8, *medians]) / 1.1, 1.2 * max(medians))
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=f"times as fast as {base}", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: f"{value:g}" if str(value)[0] in "25" else "")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    # The file's format follows from the name it will have.
    figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=120)
    temporary.rename(path)
