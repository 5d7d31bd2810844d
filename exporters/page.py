"""Self-contained pages for a person: an export's `report.html`, and an evaluation's."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from lazyneuron.engine.artifact import Manifest
from lazyneuron.exporters.evaluation.words import cells, megabytes
from lazyneuron.exporters.plan_file import Plan
from lazyneuron.exporters.plots import draw_block, percent
from lazyneuron.exporters.reports import BlockSparsity, SparsityReport

if TYPE_CHECKING:
    from lazyneuron.exporters.evaluation.report import EvaluationReport

__all__ = ["render_evaluation", "write_page"]


def write_page(
    path: Path,
    manifest: Manifest,
    sparsity: SparsityReport,
    plan: Plan,
    evaluation: "EvaluationReport | None" = None,
) -> Path:
    """Write the report of an export; return its path."""
    plots = {block.name: _plots(block) for block in sparsity.blocks}
    page = _template("report.html.j2").render(
        manifest=manifest, sparsity=sparsity, plan=plan, plots=plots, saved=_saved(manifest), evaluation=evaluation
    )
    path.write_text(page, encoding="utf-8")
    return path


def render_evaluation(evaluation: "EvaluationReport") -> str:
    """Return the page of an evaluation."""
    return _template("evaluation.html.j2").render(evaluation=evaluation)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"percent": percent, "cells": cells, "megabytes": megabytes}
    return environment.get_template(name)


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
