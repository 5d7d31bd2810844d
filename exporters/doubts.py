"""Why a report's densities may be off: too little data, in words."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lazyneuron.engine.artifact import Calibration

if TYPE_CHECKING:
    from lazyneuron.exporters.reports import BlockSparsity

__all__ = ["doubts"]

_FEW_EXAMPLES = 30
"""Under these the normal approximation of an interval is poor, too."""
_FEW_ROWS = 1000
"""Ten rows beyond the 99th percentile."""
_WIDE = 0.1
"""An interval is wide above this share of its mean."""


def doubts(blocks: Sequence["BlockSparsity"], calibration: Calibration) -> tuple[str, ...]:
    """Return what a reader should know before trusting the densities; nothing where the data is enough."""
    return tuple(_doubts(blocks, calibration)) if blocks else ()


def _doubts(blocks: Sequence["BlockSparsity"], calibration: Calibration) -> Iterator[str]:
    if calibration.kind == "random":
        yield "On random input, which says little about real input: give --calibration."
    if calibration.examples < _FEW_EXAMPLES:
        yield f"{_times(calibration.examples, 'example')} can hardly stand for all input: give {_FEW_EXAMPLES} or more."
    rows = min(block.density.rows for block in blocks)
    if rows < _FEW_ROWS:
        yield (
            f"{_times(rows, 'row')} are few: the 99th percentile and which neurons never fire need {_FEW_ROWS:,} or "
            "more."
        )
    uncertain = [(block, *block.interval) for block in blocks if block.interval is not None]
    wide = [(b, low, high) for b, low, high in uncertain if high - low > _WIDE * b.density.mean]
    if wide:
        block, low, high = max(wide, key=lambda found: (found[2] - found[1]) / found[0].density.mean)
        yield (
            f"The mean density is uncertain by more than a tenth of itself in {len(wide)} of {len(blocks)} blocks "
            f"(95 % interval over examples; the widest, {block.name}: {low:.2%} to {high:.2%}): more examples narrow "
            "it, four times as many to half."
        )


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
