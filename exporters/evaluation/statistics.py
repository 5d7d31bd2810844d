"""Metrics of two graphs from sums over the same examples, and their paired bootstrap.

Every metric is a function of sums over examples, so a resample is a weighted sum. Examples are held as groups of
consecutive ones, at most `MOST_GROUPS`: memory has a bound whatever the data's size, and resampling groups is the block
bootstrap (Künsch, 1989).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "DENSE", "METRICS", "MOST_GROUPS", "SPARSE", "WIDTH", "Column", "Groups", "Measured", "measure"]

DENSE, SPARSE = 0, 1
"""Their places on the axis of graphs."""
BINS = 15
"""Of the confidence, for the expected calibration error (Guo et al., arXiv 1706.04599)."""
MOST_GROUPS = 2048
_RESAMPLES = 1000
_CONFIDENCE = 0.95
_RULE_OF_THREE = 3.0
"""−ln(0.05): what never happened in n independent cases has, at 95 %, a rate of at most 3 / n."""
_LARGEST_EXPONENT = 700.0
_Floats = NDArray[np.float64]


class Column(IntEnum):
    """The sums that are kept of each graph."""

    ROWS = 0
    """What is judged: an example, or each of its tokens."""
    CORRECT = 1
    AGREE = 2
    """Rows whose largest entry is where the dense graph has it."""
    SURPRISE = 3
    """The negative log-likelihood of the targets, in nats."""
    SQUARED = 4
    """The squared distance from the targets, of a regression."""
    COSINE = 5
    """The cosine with the dense graph's vector."""
    NEIGHBOURS = 6
    """Examples with the same nearest neighbour as in the dense graph."""
    ERROR = 7
    """The squared distance from the dense graph's output."""
    ENERGY = 8
    """The dense output's sum of squares."""
    BIN = 9
    """The first bin's Σ (confidence − correct); the others follow."""


WIDTH = int(Column.BIN) + BINS


class Groups:
    """Sums over groups of consecutive examples.

    Parameters
    ----------
    most
        The most groups; when they are reached, neighbours are joined. An even number.
    """

    def __init__(self, most: int = MOST_GROUPS) -> None:
        self._sums = np.zeros((most, 2, WIDTH))
        self._examples = 0
        self._each = 1

    @property
    def examples(self) -> int:
        """How many examples were added."""
        return self._examples

    @property
    def sums(self) -> _Floats:
        """The sums [groups, 2, columns]."""
        return self._sums[: -(-self._examples // self._each)]

    def add(self, sums: _Floats) -> None:
        """Add one example's sums [2, columns]."""
        if self._examples == len(self._sums) * self._each:
            half = len(self._sums) // 2
            self._sums[:half] = self._sums[0::2] + self._sums[1::2]
            self._sums[half:] = 0.0
            self._each *= 2
        self._sums[self._examples // self._each] += sums
        self._examples += 1


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a graph.

    Attributes
    ----------
    name
        What it is called.
    value
        Makes it from sums [..., columns].
    better
        Whether more of it is better.
    relative
        Whether a loss is a share of the dense graph's value, instead of a difference.
    share
        Whether it is a share of rows, so that none in n says that it is at most 3 / n.
    """

    name: str
    value: Callable[[_Floats], _Floats]
    better: Literal["higher", "lower"]
    relative: bool = False
    share: bool = False

    def loss(self, dense: _Floats, sparse: _Floats) -> _Floats:
        """Return how much worse the sparse graph is; negative where it is better."""
        worse = dense - sparse if self.better == "higher" else sparse - dense
        return worse / np.maximum(np.abs(dense), np.finfo(np.float64).tiny) if self.relative else worse


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of both graphs.

    Attributes
    ----------
    metric
        What was measured.
    dense, sparse
        Its values.
    interval
        The 95 % confidence interval of sparse − dense.
    loss
        How much worse the sparse graph is: a difference, or of perplexities and squared errors a share.
    loss_interval
        Its 95 % confidence interval.
    """

    metric: Metric
    dense: float
    sparse: float
    interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]

    @property
    def difference(self) -> float:
        """Sparse minus dense."""
        return self.sparse - self.dense

    def document(self) -> dict[str, object]:
        """Return it for JSON; None for what is no finite number."""
        return {
            "name": self.metric.name,
            "better": self.metric.better,
            "dense": _finite(self.dense),
            "sparse": _finite(self.sparse),
            "difference": _finite(self.difference),
            "interval": [_finite(end) for end in self.interval],
            "loss": _finite(self.loss),
            "loss_interval": [_finite(end) for end in self.loss_interval],
        }


def measure(name: str, groups: Groups, *, same: bool, seed: int = 0) -> Measured:
    """Measure a metric of both graphs, with 95 % confidence intervals by the paired bootstrap (Efron, 1979).

    Parameters
    ----------
    name
        One of `METRICS`.
    groups
        Sums over at least one example.
    same
        Whether both graphs' outputs are known to be the same but for rounding. If not, and no example differs, the
        bootstrap would say that none can; the rule of three stands in for it.
    seed
        Of the resampling.
    """
    metric, sums = METRICS[name], groups.sums
    count = len(sums)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    resampled = (weights @ sums.reshape(count, -1)).reshape(_RESAMPLES, 2, WIDTH)
    values = metric.value(resampled)
    dense, sparse = metric.value(sums.sum(0))
    interval = _ends(values[:, SPARSE] - values[:, DENSE])
    losses = _ends(metric.loss(values[:, DENSE], values[:, SPARSE]))
    if metric.share and not same and interval == losses == (0.0, 0.0):
        most = min(1.0, _RULE_OF_THREE / groups.examples)
        interval = losses = (-most, most)
    return Measured(metric, float(dense), float(sparse), interval, float(metric.loss(dense, sparse)), losses)


def _ends(values: _Floats) -> tuple[float, float]:
    if not np.isfinite(values).all():
        return float(values.min()), float(values.max())
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _per_row(column: Column) -> Callable[[_Floats], _Floats]:
    return lambda sums: sums[..., column] / np.maximum(sums[..., Column.ROWS], 1)


def _perplexity(sums: _Floats) -> _Floats:
    return np.exp(np.minimum(_per_row(Column.SURPRISE)(sums), _LARGEST_EXPONENT))


def _calibration_error(sums: _Floats) -> _Floats:
    error: _Floats = np.abs(sums[..., Column.BIN :]).sum(-1) / np.maximum(sums[..., Column.ROWS], 1)
    return error


def _relative_error(sums: _Floats) -> _Floats:
    # The dense graph's energy stands in both graphs' sums.
    return np.sqrt(sums[..., Column.ERROR] / np.maximum(sums[..., Column.ENERGY], np.finfo(np.float64).tiny))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _per_row(Column.CORRECT), "higher", share=True),
        Metric("token accuracy", _per_row(Column.CORRECT), "higher", share=True),
        Metric("perplexity", _perplexity, "lower", relative=True),
        Metric("mean squared error", _per_row(Column.SQUARED), "lower", relative=True),
        Metric("expected calibration error", _calibration_error, "lower"),
        Metric("agreement", _per_row(Column.AGREE), "higher", share=True),
        Metric("cosine", _per_row(Column.COSINE), "higher"),
        Metric("same nearest neighbour", _per_row(Column.NEIGHBOURS), "higher", share=True),
        Metric("relative error", _relative_error, "lower"),
    )
}
"""By name."""
