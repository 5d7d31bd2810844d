"""Pictures of a checkpoint's sparsity: each block's rows, its neurons, and its density by position and by batch."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.documents import written_beside
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.reports import BlockSparsity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "check_name", "draw_block", "percent", "save_plots"]

PICTURES = ("png", "svg", "pdf")
_BARS = 60
_POINTS = 200
_BLUE, _RED, _GREY = "#2a6f97", "#c1121f", "#8d99a6"
_SIZE = 11.5, 2.1
"""Of one block's row of plots, in inches."""
_MOST_BLOCKS = 250
"""Beyond these a picture would be higher than matplotlib draws one (2¹⁶ pixels)."""


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.1f} %"


def draw_block(block: BlockSparsity) -> bytes:
    """Draw a block's plots; return an SVG file's content, the same for the same block."""
    from matplotlib import rc_context

    figure = _figure([block])
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "lazyneuron"}):  # else the picture's ids are drawn at random
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def check_name(path: Path) -> str:
    """Return the format that a picture's name ends with.

    Raises
    ------
    ConfigurationError
        If that is none of `PICTURES`.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in PICTURES:
        expected = ", ".join(f".{p}" for p in PICTURES)
        raise ConfigurationError(f"{path}: it ends in {path.suffix!r}; expected a picture's name, in one of {expected}")
    return kind


def save_plots(path: Path, blocks: Sequence[BlockSparsity]) -> None:
    """Write the plots of all blocks to one picture, in the format that its name ends with.

    Raises
    ------
    ConfigurationError
        If the name ends otherwise than in `PICTURES`, there are no blocks or too many, or it cannot be written.
    """
    kind = check_name(path)
    if not 0 < len(blocks) <= _MOST_BLOCKS:
        raise ConfigurationError(f"{path}: {len(blocks)} blocks to draw; expected 1 to {_MOST_BLOCKS}")
    try:
        with written_beside(path) as beside:
            _figure(blocks, named=True).savefig(beside, format=kind, dpi=110)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot write the picture: {error.strerror or error}") from error


def _figure(blocks: Sequence[BlockSparsity], *, named: bool = False) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no display is looked for, and no state is kept

    width, height = _SIZE
    figure = Figure(figsize=(width, len(blocks) * (height + 0.3 * named)), layout="constrained")
    grid = figure.subplots(len(blocks), 3, squeeze=False)
    for axes, block in zip(grid, blocks, strict=True):
        if named:
            axes[0].set_title(block.name, loc="left", fontsize="medium")
        for draw, one in zip((_rows, _neurons, _shared), axes, strict=True):
            draw(one, block)
            one.spines[["top", "right"]].set_visible(False)
    return figure


def _rows(axes: "Axes", block: BlockSparsity) -> None:
    """Draw how many rows had which density."""
    heights, edges = _bars(block.histogram)
    axes.bar(edges[:-1], heights, width=np.diff(edges), align="edge", color=_BLUE)
    for share, style, label in ((block.density.mean, "-", "mean"), (block.density.p95, "--", "p95")):
        axes.axvline(100 * share, color=_RED, linestyle=style, linewidth=1, label=f"{label} {percent(share)}")
    axes.set_xlabel("neurons active, % of d_ff")
    axes.set_ylabel("% of rows")
    axes.legend(fontsize="small", frameon=False)


def _neurons(axes: "Axes", block: BlockSparsity) -> None:
    """Draw the share of all activations that the hottest neurons made."""
    if block.fired is None:
        return
    cumulated = np.concatenate([[0], np.sort(block.fired)[::-1].cumsum()])
    places = np.unique(np.linspace(0, block.d_ff, min(block.d_ff, _POINTS) + 1).astype(int))
    axes.plot(100 * places / block.d_ff, 100 * cumulated[places] / max(int(cumulated[-1]), 1), color=_BLUE)
    axes.plot([0, 100], [0, 100], color=_GREY, linewidth=0.7, linestyle=":")
    axes.set_xlabel(f"hottest neurons, % (never active: {percent(block.density.never_active)})")
    axes.set_ylabel("% of activations")


def _shared(axes: "Axes", block: BlockSparsity) -> None:
    """Draw the density by position, and of the union of several rows."""
    bars = [(str(at), at.density, _BLUE) for at in block.positions]
    bars += [(f"∪{rows}", share, _RED) for rows, share in block.unions.items() if share is not None]
    if block.candidates is not None:
        bars.append(("screen", block.candidates, _GREY))
    axes.bar(range(len(bars)), [100 * share for _, share, _ in bars], color=[color for *_, color in bars])
    axes.set_xticks(range(len(bars)), [label for label, *_ in bars], fontsize="x-small", rotation=30)
    axes.set_xlabel("by position; ∪n: union of n rows; screen: candidates", fontsize="small")
    axes.set_ylabel("% of d_ff")


def _bars(histogram: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gather a histogram of counts into bars: heights in % of rows, and edges in % of d_ff."""
    d_ff = len(histogram) - 1
    highest = int(np.flatnonzero(histogram).max(initial=0)) + 1
    width = max(1, -(-highest // _BARS))
    starts = np.arange(0, highest, width)
    heights = np.add.reduceat(histogram, starts)[: len(starts)]
    total = max(int(histogram.sum()), 1)
    return 100 * heights / total, 100 * np.append(starts, starts[-1] + width) / d_ff
