"""`report.html`: one self-contained page for a person."""

import base64
from importlib.resources import files
from pathlib import Path

import jinja2

from lazyneuron.engine.artifact import Manifest
from lazyneuron.exporters.plan_file import Plan
from lazyneuron.exporters.plots import draw_block, percent
from lazyneuron.exporters.reports import BlockSparsity, SparsityReport

__all__ = ["write_page"]


def write_page(path: Path, manifest: Manifest, sparsity: SparsityReport, plan: Plan) -> Path:
    """Write the report of an export; return its path."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = percent
    template = environment.from_string((files(__package__) / "report.html.j2").read_text(encoding="utf-8"))
    plots = {block.name: _plots(block) for block in sparsity.blocks}
    path.write_text(
        template.render(manifest=manifest, sparsity=sparsity, plan=plan, plots=plots, saved=_saved(manifest)),
        encoding="utf-8",
    )
    return path


def _saved(manifest: Manifest) -> float:
    """Return the share of the MLP blocks' operations that the calibration rows would not have needed."""
    dense = executed = 0.0
    for block in manifest.blocks:
        flops, rows = block.flops, block.density.rows
        dense += rows * flops.dense_per_row
        neurons = block.d_ff * (block.candidates * flops.per_candidate + block.density.mean * flops.per_active)
        executed += rows * (flops.per_row + neurons)
    return 1 - executed / dense if dense else 0.0


def _plots(block: BlockSparsity) -> str:
    """Draw a block's plots; return the picture as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(draw_block(block)).decode()
