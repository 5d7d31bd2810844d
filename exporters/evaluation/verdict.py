"""Whether to use an artifact, in one sentence with its reason, by rules that docs/evaluate.md states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lazyneuron.exporters.evaluation.speed import SpeedCase
from lazyneuron.exporters.evaluation.statistics import Measured

__all__ = ["Verdict", "judge"]

Decision = Literal["go", "no-go", "not worth it", "undecided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to use an artifact.

    Attributes
    ----------
    decision
        `go`: the loss is within the limit, and it is faster; `not worth it`: within the limit, and no faster; `no-go`:
        it loses more; `undecided`: too few examples to tell.
    sentence
        The decision with its reason.
    """

    decision: Decision
    sentence: str

    def document(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"decision": self.decision, "sentence": self.sentence}


def judge(deciding: Measured, speed: Sequence[SpeedCase], *, limit: float, examples: int) -> Verdict:
    """Judge by the loss of the deciding metric and the speed on this machine.

    The loss counts as within the limit where its confidence interval's upper end is, and as above where its estimate
    is. Faster is where three quarters of the turns were.

    Parameters
    ----------
    deciding
        The metric of both graphs.
    speed
        What was timed, at least one case.
    limit
        The greatest loss allowed: a difference of shares, or of perplexities and squared errors a share.
    examples
        How many were judged.
    """
    high = deciding.loss_interval[1]
    if high <= limit:
        return _by_speed(deciding, speed)
    change = _change(deciding)
    if deciding.loss <= limit:
        more = f"{examples} examples are too few to tell whether the loss is within {limit:.2%}: {change}"
        return Verdict("undecided", f"undecided: {more}; evaluate on more data.")
    return Verdict("no-go", f"no-go: the artifact loses more than {limit:.2%}: {change}.")


def _by_speed(deciding: Measured, speed: Sequence[SpeedCase]) -> Verdict:
    faster = [case for case in speed if case.faster.low > 1]
    times = ", ".join(f"{case.faster.median:.2f} times as fast with {case.words}" for case in speed)
    if not faster:
        return Verdict("not worth it", f"not worth it: no loss above the limit ({_change(deciding)}), but {times}.")
    only = "" if len(faster) == len(speed) else f"; use it with {' and '.join(case.words for case in faster)} alone"
    return Verdict("go", f"go: {_change(deciding)}, and {times}{only}.")


def _change(deciding: Measured) -> str:
    name, low, high = deciding.metric.name, *deciding.loss_interval
    if deciding.metric.relative:
        values = f"{name} {deciding.dense:.4g} → {deciding.sparse:.4g}"
        return f"{values} ({deciding.loss:+.2%}, 95 %: {low:+.2%} to {high:+.2%})"
    low, high = deciding.interval
    return (
        f"{name} {deciding.dense:.2%} → {deciding.sparse:.2%} "
        f"({100 * deciding.difference:+.2f} points, 95 %: {100 * low:+.2f} to {100 * high:+.2f})"
    )
