"""Which blocks get their predictors; the comparison is given here, and a real one is made in test_predicted_export."""

from types import SimpleNamespace

import numpy as np
import pytest

from lazyneuron.engine.artifact import Density, OutputAgreement, Quality
from lazyneuron.exporters.admission import admit
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.predictors import Measures, Predictor

DENSITY = Density(rows=1, mean=0, p50=0, p90=0, p95=0, p99=0, never_active=0)
COSTS = {"a": 0.03, "b": 0.001, "c": 0.01, "d": 0.002}


def predictor(lost: float) -> Predictor:
    part = np.zeros((2, 2), np.float32)
    return Predictor(part, part, part[0], held_out=Measures(9, 1.0, 1 - lost, 0.1, 0.1))


def choice(name: str, mode: str = "certified") -> Choice:
    return Choice(SimpleNamespace(name=name), mode, 0, DENSITY)


class Compared:
    """Adds up what each admitted block costs, and counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, choices):
        self.asked += 1
        cost = sum(COSTS[name] for name, chosen in choices.items() if chosen.mode == "predictor")
        agreement = OutputAgreement(name="y", max_abs_error=0, max_rel_error=0, same_argmax=1 - cost)
        return SimpleNamespace(quality=Quality(examples=1, outputs=(agreement,)))


@pytest.mark.parametrize(
    ("most", "admitted"),
    [
        (None, "abcd"),
        (1.0, "abcd"),
        (0.042, "bcd"),
        (0.0131, "bcd"),
        (0.01, "bd"),
        (0.0015, "b"),
        (0.0005, ""),
        (0.0, ""),
    ],
)
def test_the_worst_go_back_first(most, admitted):
    compared = Compared()
    chosen, comparison, notes = admit(
        {name: choice(name) for name in COSTS}, {name: predictor(cost) for name, cost in COSTS.items()}, most, compared
    )
    assert "".join(name for name in chosen if chosen[name].mode == "predictor") == admitted
    assert comparison.quality.outputs[0].same_argmax == pytest.approx(1 - sum(COSTS[name] for name in admitted))
    back = [name for name in COSTS if name not in admitted]
    assert [note.split(" is ")[0] for note in notes if " is certified" in note] == back
    assert compared.asked <= 4


def test_blocks_without_a_predictor_stay_as_they_are():
    choices = {"a": choice("a"), "b": choice("b", "exact"), "c": choice("c")}
    chosen, _, notes = admit(choices, {"a": None, "b": None, "c": predictor(0.1)}, None, Compared())
    assert [chosen[name].mode for name in "abc"] == ["certified", "exact", "predictor"]
    assert notes[0] == "a is certified: no predictor would cost less than it saves."
    assert notes[1] == "The predictors cost 1.00 % of quality on held-out data."


def test_a_block_that_was_not_asked_for_one_is_no_note():
    _, _, notes = admit({"a": choice("a"), "b": choice("b")}, {"b": predictor(0.1)}, None, Compared())
    assert notes == ("The predictors cost 0.10 % of quality on held-out data.",)


@pytest.mark.parametrize(("most", "modes"), [(1.0, {"a": "predictor", "b": "certified"}), (0.0, {"b": "certified"})])
def test_a_block_that_stays_dense_without_its_predictor_is_not_rewritten(most, modes):
    choices = {"a": choice("a", "dense"), "b": choice("b")}
    chosen, _, notes = admit(choices, {"a": predictor(0.1)}, most, Compared())
    assert {name: found.mode for name, found in chosen.items()} == modes
    if most == 0:
        assert notes == ("a is dense: its predictor would let the quality drop by more than 0.",)
