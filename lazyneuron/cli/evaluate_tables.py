"""What `lazyneuron evaluate` prints."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lazyneuron.exporters.evaluation.words import cells, megabytes

if TYPE_CHECKING:
    from lazyneuron.exporters.evaluation.report import EvaluationReport
    from lazyneuron.exporters.evaluation.speed import SpeedCase
    from lazyneuron.exporters.evaluation.statistics import Measured

__all__ = ["show_evaluation"]

_WIDTH = 100  # columns that the tables need; a narrow terminal wraps them, and cuts nothing off
_STYLES = {"go": "bold green", "no-go": "bold red", "not worth it": "bold yellow", "undecided": "bold yellow"}


def show_evaluation(report: "EvaluationReport") -> None:
    """Print tables, what is saved, and the verdict last."""
    console = Console()
    console.width = max(console.width, _WIDTH)
    labels = "labelled" if report.labelled else "not labelled"
    _say(console, f"{report.name} version {report.version}, mode {report.mode}, task {report.task}")
    against = f"; dense is {report.against}" if report.against else ""
    _say(console, f"{report.data}: {report.examples} examples, {labels}{against}")
    console.print(_metrics(report.metrics))
    if report.corruptions:
        console.print(_corruptions(report))
    _say(
        console,
        f"density {100 * report.sparsity.density:.2f} %, {report.flops_saved:.1%} of the MLP blocks' FLOPs saved",
    )
    _say(console, f"{report.machine}, {report.threads} thread(s); medians (quartiles):")
    for case in report.speed:
        _say(console, f"  {_speed(case)}")
    _say(console, f"files: {megabytes(report.dense_bytes)} dense, {megabytes(report.sparse_bytes)} sparse")
    if report.memory is not None:
        dense, sparse = (megabytes(count) for count in (report.memory.dense_bytes, report.memory.sparse_bytes))
        _say(console, f"resident memory, opened and run: {dense} dense, {sparse} sparse")
    for note in report.notes:
        _say(console, f"note: {note}")
    _say(console, report.verdict.sentence, _STYLES[report.verdict.decision])


def _metrics(metrics: "tuple[Measured, ...]") -> Table:
    table = _table("", "dense", "sparse", "difference", "95 % interval")
    for measured in metrics:
        table.add_row(measured.metric.name, *cells(measured))
    return table


def _corruptions(report: "EvaluationReport") -> Table:
    table = _table("corruption", "amount", "dense", "sparse", "difference", "95 % interval", "density")
    table.title, table.title_justify = f"{report.metrics[0].metric.name} under corruptions", "left"
    for case in report.corruptions:
        table.add_row(case.kind, case.amount, *cells(case.metrics[0]), f"{case.density:.2%}")
    return table


def _table(first: str, *headers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _speed(case: "SpeedCase") -> str:
    low, median, high = (f"{value:.3g}" for value in (case.faster.low, case.faster.median, case.faster.high))
    times = f"{1e3 * case.dense.median:.3g} ms dense, {1e3 * case.sparse.median:.3g} ms sparse"
    return f"{case.words}: {median} ({low}–{high}) times as fast, {times}"


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
