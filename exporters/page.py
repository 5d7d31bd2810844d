"""`report.html`: one self-contained page for a person."""

import base64
import io
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Manifest
from lazyneuron.exporters.plan_file import Plan
from lazyneuron.exporters.reports import BlockSparsity, SparsityReport

__all__ = ["write_page"]

_BARS = 60


def write_page(path: Path, manifest: Manifest, sparsity: SparsityReport, plan: Plan) -> Path:
    """Write the report of an export; return its path."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = _percent
    template = environment.from_string((files(__package__) / "report.html.j2").read_text(encoding="utf-8"))
    plots = {block.name: _plot(block) for block in sparsity.blocks}
    path.write_text(
        template.render(manifest=manifest, sparsity=sparsity, plan=plan, plots=plots, saved=_saved(manifest)),
        encoding="utf-8",
    )
    return path


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.1f} %"


def _saved(manifest: Manifest) -> float:
    """Return the share of the MLP blocks' operations that the calibration rows would not have needed."""
    dense = executed = 0.0
    for block in manifest.blocks:
        flops, rows = block.flops, block.density.rows
        dense += rows * flops.dense_per_row
        neurons = block.d_ff * (block.candidates * flops.per_candidate + block.density.mean * flops.per_active)
        executed += rows * (flops.per_row + neurons)
    return 1 - executed / dense if dense else 0.0


def _plot(block: BlockSparsity) -> str:
    """Draw how many rows had which density; return the picture as a data URI."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot: no display is looked for, and no state is kept

    heights, edges = _bars(block.histogram)
    figure = Figure(figsize=(4.6, 1.9), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(edges[:-1], heights, width=np.diff(edges), align="edge", color="#2a6f97")
    for share, style, label in ((block.density.mean, "-", "mean"), (block.density.p95, "--", "p95")):
        axes.axvline(100 * share, color="#c1121f", linestyle=style, linewidth=1, label=f"{label} {_percent(share)}")
    axes.set_xlabel("neurons active, % of d_ff")
    axes.set_ylabel("% of rows")
    axes.legend(fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "lazyneuron"}):  # else the picture's ids are drawn at random
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode()


def _bars(histogram: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gather a histogram of counts into bars: heights in % of rows, and edges in % of d_ff."""
    d_ff = len(histogram) - 1
    highest = int(np.flatnonzero(histogram).max(initial=0)) + 1
    width = max(1, -(-highest // _BARS))
    starts = np.arange(0, highest, width)
    heights = np.add.reduceat(histogram, starts)[: len(starts)]
    total = max(int(histogram.sum()), 1)
    return 100 * heights / total, 100 * np.append(starts, starts[-1] + width) / d_ff
