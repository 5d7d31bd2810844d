"""An evaluation's figures as a person reads them, in a terminal and on a page."""

from lazyneuron.exporters.evaluation.statistics import Measured

__all__ = ["cells", "megabytes"]


def cells(measured: Measured) -> list[str]:
    """Return dense, sparse, the difference and its interval: of shares in percent and points."""
    low, high = measured.interval
    if measured.metric.relative:
        values = [f"{value:.4g}" for value in (measured.dense, measured.sparse)]
        return [*values, f"{measured.difference:+.3g}", f"{low:+.3g} to {high:+.3g}"]
    values = [f"{value:.2%}" for value in (measured.dense, measured.sparse)]
    return [*values, f"{100 * measured.difference:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}"]


def megabytes(count: int) -> str:
    """Return bytes in MB."""
    return f"{count / 1e6:,.1f} MB"
