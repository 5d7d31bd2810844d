import pytest

from lazyneuron.engine.timing import Timing
from lazyneuron.exporters.evaluation.speed import SpeedCase
from lazyneuron.exporters.evaluation.statistics import METRICS, Measured
from lazyneuron.exporters.evaluation.verdict import judge


def accuracy(loss, low, high):
    return Measured(METRICS["accuracy"], 0.9, 0.9 - loss, (-high, -low), loss, (low, high))


def speed(*faster):
    second = Timing(1, 1, 1, 9)
    return tuple(SpeedCase(8**i, second, second, Timing(f - 0.1, f, f + 0.1, 9)) for i, f in enumerate(faster))


@pytest.mark.parametrize(
    ("measured", "cases", "decision", "says"),
    [
        (accuracy(0, 0, 0), speed(1.5, 1.3), "go", "and 1.50 times as fast with 1 example, 1.30 times as fast with 8"),
        (accuracy(0.002, -0.001, 0.006), speed(1.5, 1.3), "go", "accuracy 90.00% → 89.80% (-0.20 points, 95 %: -0.60"),
        (accuracy(-0.02, -0.03, -0.01), speed(2.0), "go", "+2.00 points"),
        (accuracy(0, 0, 0), speed(1.5, 0.9), "go", "; use it with 1 example alone."),
        (accuracy(0, 0, 0), speed(0.8, 1.05), "not worth it", "but 0.80 times as fast with 1 example"),
        (accuracy(0.03, 0.02, 0.04), speed(3.0), "no-go", "loses more than 1.00%"),
        (accuracy(0.03, -0.01, 0.07), speed(3.0), "no-go", "loses more than 1.00%"),
        (accuracy(0.005, -0.01, 0.02), speed(3.0), "undecided", "50 examples are too few to tell"),
        (accuracy(float("nan"), float("nan"), float("nan")), speed(3.0), "no-go", "loses more"),
    ],
)
def test_the_rules(measured, cases, decision, says):
    verdict = judge(measured, cases, limit=0.01, examples=50)
    assert verdict.decision == decision
    assert verdict.sentence.startswith(f"{decision}: ")
    assert says in verdict.sentence
    assert verdict.sentence.count("\n") == 0


def test_a_share_of_perplexity():
    measured = Measured(METRICS["perplexity"], 20, 21, (0.8, 1.2), 0.05, (0.04, 0.06))
    verdict = judge(measured, speed(2.0), limit=0.01, examples=500)
    assert "perplexity 20 → 21 (+5.00%, 95 %: +4.00% to +6.00%)" in verdict.sentence
