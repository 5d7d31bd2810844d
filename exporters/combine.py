"""The cheapest choice for several blocks at once, where each alternative loses something and the losses add up.

It is the multiple-choice knapsack problem, solved exactly by dynamic programming over blocks: of the partial choices
only those are kept that no other beats in both cost and loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["Combination", "cheapest_within", "frontier"]

_MOST = 20_000
"""Partial choices that are kept; of more than that, those that lose nearly the same are thinned to the cheapest."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One alternative for each block, by its place among the block's, with their summed cost and loss."""

    picks: tuple[int, ...]
    cost: float
    loss: float


def frontier(options: Sequence[Sequence[tuple[float, float]]], most: float) -> list[Combination]:
    """Return the combinations that no other beats in both cost and loss, by rising loss and falling cost.

    Parameters
    ----------
    options
        For each block its alternatives: cost and loss, the loss not negative.
    most
        The greatest summed loss.

    Returns
    -------
    Empty if no combination loses so little. Exact for up to 20,000 partial choices at a time; beyond that a
    combination may lose up to a 20,000th of `most` a block more than the best of its cost.
    """
    partial = [Combination((), 0.0, 0.0)]
    for block in options:
        longer = [
            Combination((*p.picks, i), p.cost + cost, p.loss + loss)
            for p in partial
            for i, (cost, loss) in enumerate(block)
            if p.loss + loss <= most
        ]
        partial = _unbeaten(sorted(longer, key=lambda c: (c.loss, c.cost)))
        if len(partial) > _MOST:
            cells = groupby(partial, key=lambda c: int(c.loss / most * _MOST))
            partial = [list(cell)[-1] for _, cell in cells]  # the last of a cell is its cheapest
    return partial


def cheapest_within(combinations: Sequence[Combination], most: float) -> Combination:
    """Return the cheapest combination of a frontier that loses at most so much, else the one that loses least."""
    fitting = [c for c in combinations if c.loss <= most]
    return fitting[-1] if fitting else combinations[0]


def _unbeaten(ordered: Sequence[Combination]) -> list[Combination]:
    kept: list[Combination] = []
    for combination in ordered:
        if not kept or combination.cost < kept[-1].cost:
            kept.append(combination)
    return kept
