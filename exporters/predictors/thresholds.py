"""A predictor's threshold: low enough for the recall that is promised, on data that is like the calibration's."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scored", "choose_threshold"]

_GROUPS = 10
_DEVIATIONS = 2.5
_LEAST_LOST = 5
"""Active neurons that a group may lose, at the least; fewer make its recall a matter of chance."""


class Scored:
    """The scores of truly active neurons, with the example that each is of, and those of all neurons in a histogram.

    Parameters
    ----------
    active
        float32 [n], scores of active neurons.
    example
        [n], ascending.
    """

    def __init__(self, active: NDArray[np.float32], example: NDArray[np.integer]) -> None:
        self.active = active
        self.example = example

    def groups(self, recall: float) -> Sequence[NDArray[np.float32]]:
        """Share out the scores, ascending in each group, between runs of neighbouring examples."""
        most = int(len(self.active) * (1 - recall) / _LEAST_LOST)
        wanted = min(_GROUPS, len(np.unique(self.example)), max(1, most))
        ends = np.flatnonzero(np.diff(self.example)) + 1
        cuts = np.arange(1, wanted) * len(self.active) // wanted
        # Whole examples: a cut moves to the nearest end of one.
        places = sorted({int(ends[np.abs(ends - cut).argmin()]) for cut in cuts})
        return [np.sort(part) for part in np.split(self.active, places)]


def choose_threshold(scored: Scored, recall: float) -> float:
    """Return the highest threshold that keeps the recall on data like this, as far as it can be told.

    Neighbouring examples come from the same source, and recall differs between sources: the threshold has to keep it in
    a group of examples that is 2.5 deviations (over up to ten groups) worse than the mean, not on the average alone.

    Parameters
    ----------
    scored
        Of rows that the predictor was not fitted on.
    recall
        The promised share of active neurons above the threshold.
    """
    groups = scored.groups(recall)
    pooled = np.sort(scored.active)
    if not len(pooled):
        return 0.0
    low, high = 0, min(int((1 - recall) * len(pooled)), len(pooled) - 1)
    # How many of the pooled scores may be lost; the bound falls with it, so halving finds the most.
    while low < high:
        middle = (low + high + 1) // 2
        if _bound(groups, pooled[middle]) >= recall:
            low = middle
        else:
            high = middle - 1
    # Kept is what lies above, so the threshold is just below the lowest score that has to be kept.
    return float(np.nextafter(pooled[low], np.float32(-np.inf)))


def _bound(groups: Sequence[NDArray[np.float32]], lowest: np.float32) -> float:
    """Return the recall of scores from `lowest` on that a bad group has."""
    recalls = np.array([1 - np.searchsorted(group, lowest) / len(group) for group in groups])
    mean = recalls.mean()
    # How far chance alone may take so few scores; a few groups may be alike by chance, too.
    spread = np.sqrt(mean * (1 - mean) / sum(map(len, groups)))
    if len(recalls) > 1:
        spread = max(spread, recalls.std(ddof=1))
    return float(mean - _DEVIATIONS * spread)
