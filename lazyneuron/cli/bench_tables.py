"""What `lazyneuron bench` prints."""

import statistics
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lazyneuron.engine.cost import CostModel, Curve
    from lazyneuron.engine.timing import Timing
    from lazyneuron.exporters.bench.artifact import ArtifactBench, BenchCase

__all__ = ["costs_document", "show_artifact", "show_costs"]

_WIDTH = 100  # columns that the tables need; a narrow terminal wraps them, and cuts nothing off
_BUSY = 0.15  # a spread that a machine with nothing else to do stays under
_WEIGHTS = {"float32": "", "float16": " f16", "int8": " int8"}


def costs_document(costs: "CostModel") -> dict[str, Any]:
    """Return costs for JSON, with the density under which each mode is faster than ONNX Runtime's blocks."""
    crossovers = [
        curve.model_dump(include={"mode", "weights", "d_model", "d_ff", "rows"})
        | {"dense": costs.crossover(curve, "dense"), "int8": costs.crossover(curve, "int8")}
        for curve in _sparse(costs.curves)
    ]
    return costs.model_dump() | {"crossovers": crossovers}


def show_costs(costs: "CostModel") -> None:
    """Print a table for each shape of block."""
    console = _console()
    _say(console, f"{costs.machine}, {costs.threads} thread(s)")
    _say(console, "How many times as fast as ONNX Runtime's float32 block, at each density (share of active neurons);")
    _say(
        console, "then the density under which it is faster than that block, and than ONNX Runtime's dynamic int8 one."
    )
    for shape in dict.fromkeys((curve.d_model, curve.d_ff) for curve in costs.curves):
        curves = [curve for curve in costs.curves if (curve.d_model, curve.d_ff) == shape]
        _say(console, f"\nd_model {shape[0]}, d_ff {shape[1]}")
        for gated in sorted({curve.gated for curve in curves}):
            _say(console, f"  ONNX Runtime, {_block(gated)}, float32 / int8, µs a row: {_dense_line(curves, gated)}")
        console.print(_shape(costs, curves))
    spread = statistics.median(s for curve in costs.curves for s in curve.spread)
    _say(console, f"Times are of the fastest runs; a measurement's interquartile range is {spread:.0%} of its median.")
    if spread > _BUSY:
        _say(console, "The machine was busy: measure again when nothing else runs, and these figures will be better.")


def _block(gated: bool) -> str:
    return "a gated block" if gated else "a block"


def _dense_line(curves: "list[Curve]", gated: bool) -> str:
    micro = {(c.mode, c.rows): f"{1e6 * c.seconds[0] / c.rows:.3g}" for c in curves if c.gated == gated}
    rows = sorted({curve.rows for curve in curves})
    return ", ".join(f"{micro['dense', n]} / {micro['int8', n]} (of {n})" for n in rows)


def _shape(costs: "CostModel", curves: "list[Curve]") -> Table:
    densities = max((curve.density for curve in curves), key=len)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("block", no_wrap=True)
    for header in (*(f"{100 * density:.3g} %" for density in densities), "fp32", "int8"):
        table.add_column(header, justify="right", no_wrap=True)
    for rows in sorted({curve.rows for curve in curves}):
        here = [curve for curve in curves if curve.rows == rows]
        dense = {curve.gated: curve.seconds[0] for curve in here if curve.mode == "dense"}
        for curve in _sparse(here):
            cells = [f"{dense[curve.gated] / seconds:.2g}" for seconds in curve.seconds]
            limits = [_limit(costs.crossover(curve, "dense")), _limit(costs.crossover(curve, "int8"))]
            table.add_row(str(rows), curve.mode + _WEIGHTS[curve.weights], *cells, *limits)
        table.add_section()
    return table


def _sparse(curves: "list[Curve] | tuple[Curve, ...]") -> "list[Curve]":
    return [curve for curve in curves if curve.mode not in {"dense", "int8", "down"}]


def _limit(density: float | None) -> str:
    if density is None:
        return "–"
    return "never" if density == 0.0 else "always" if density == 1.0 else f"{100 * density:.3g} %"


def show_artifact(report: "ArtifactBench") -> None:
    """Print a table of a measured artifact."""
    console = _console()
    _say(console, f"{report.name} version {report.version}, mode {report.mode}, input: {report.inputs}")
    _say(console, f"{report.machine}, {report.threads} thread(s); medians (quartiles); input: batch×length")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("input", no_wrap=True)
    table.add_column("graph", no_wrap=True)
    for header in ("ms", "tokens/s", "sparse: times as fast", "off"):
        table.add_column(header, justify="right", no_wrap=True)
    for case in report.cases:
        for row in _rows(case):
            table.add_row(*row)
        table.add_section()
    console.print(table)
    for case in report.cases:
        saved = case.sparsity
        share = saved.flops_saved / saved.flops_dense if saved.flops_dense else 0.0
        skipped = f"density {100 * saved.density:.2f} %, {share:.1%} of the MLP blocks' FLOPs saved"
        predicted = "" if case.predicted is None else f"; {1e3 * case.predicted:.3g} ms predicted by the costs"
        _say(console, f"{_size(case)}: {skipped}{predicted}")
    for note in report.notes:
        _say(console, f"note: {note}")


def _rows(case: "BenchCase") -> list[list[str]]:
    rows = []
    for name, timing in case.seconds.items():
        off = case.off.get(name)
        rows.append(
            [
                _size(case),
                name,
                _timing(timing, 1e3),
                f"{case.rows / timing.median:,.0f}",
                _timing(case.faster[name]) if name in case.faster else "",
                "" if off is None else f"{off:.1e}",
            ]
        )
    return rows


def _timing(timing: "Timing", factor: float = 1.0) -> str:
    low, median, high = (f"{factor * value:.3g}" for value in (timing.low, timing.median, timing.high))
    return f"{median} ({low}–{high})"


def _size(case: "BenchCase") -> str:
    return str(case.batch) + ("" if case.length is None else f"×{case.length}")


def _console() -> Console:
    console = Console()
    console.width = max(console.width, _WIDTH)
    return console


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
