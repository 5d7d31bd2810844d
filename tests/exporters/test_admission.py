"""Which blocks get their predictors; the comparison is given here, and a real one is made in test_predicted_export."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lazyneuron.engine.artifact import Density, OutputAgreement, Quality
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.admission import admit, one_by_one
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.predictors import Measures, Predictor

DENSITY = Density(rows=1, mean=0, p50=0, p90=0, p95=0, p99=0, never_active=0)
COSTS = {"a": 0.03, "b": 0.001, "c": 0.01, "d": 0.002}


def predictor(lost: float) -> Predictor:
    part = np.zeros((2, 2), np.float32)
    return Predictor(part, part, part[0], held_out=Measures(9, 1.0, 1 - lost, 0.1, 0.1))


def choice(name: str, mode: str = "certified") -> Choice:
    return Choice(SimpleNamespace(name=name, top_k=0, d_ff=8), mode, 0, DENSITY)


def cut(name: str, error: float) -> Choice:
    return replace(choice(name, "exact"), threshold=0.5, error=error)


class Compared:
    """Adds up what each admitted block costs, and counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, choices):
        self.asked += 1
        cost = sum(COSTS[name] for name, chosen in choices.items() if chosen.lossy)
        agreement = OutputAgreement(name="y", max_abs_error=0, max_rel_error=0, same_argmax=1 - cost)
        active = (0.25,) * len(choices)
        return SimpleNamespace(quality=Quality(examples=1, outputs=(agreement,)), active=active)


def admitted(base, wanted, most, compared=None):
    return admit(one_by_one(base, wanted), most, compared or Compared())


@pytest.mark.parametrize(
    ("most", "expected"),
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
@pytest.mark.parametrize("what", ["predictor", "threshold"])
def test_the_worst_go_back_first(most, expected, what):
    compared = Compared()
    base = {name: choice(name) for name in COSTS}
    wanted = {
        name: base[name].predicted(predictor(cost)) if what == "predictor" else cut(name, cost)
        for name, cost in COSTS.items()
    }
    chosen, comparison, notes = admitted(base, wanted, most, compared)
    assert "".join(name for name in chosen if chosen[name].lossy) == expected
    assert comparison.quality.outputs[0].same_argmax == pytest.approx(1 - sum(COSTS[name] for name in expected))
    back = [name for name in COSTS if name not in expected]
    assert [note.split(" is ")[0] for note in notes if f" is certified: its {what} would" in note] == back
    assert compared.asked <= 4
    kept = [note for note in notes if note.startswith("Small values are left out in ")]
    assert len(kept) == (what == "threshold" and expected != "")


def test_the_greatest_of_given_rungs_that_fits_is_taken():
    base = {name: choice(name) for name in "ab"}
    rungs = [base, base | {"b": cut("b", 0.1)}, {"a": cut("a", 0.1), "b": cut("b", 0.1)}]
    for most, expected in ((0.0, ""), (0.002, "b"), (0.5, "ab")):
        chosen, _, _ = admit(rungs, most, Compared())
        assert "".join(name for name in chosen if chosen[name].lossy) == expected


def test_blocks_without_a_predictor_stay_as_they_are():
    choices = {"a": choice("a"), "b": choice("b", "exact"), "c": choice("c")}
    chosen, _, notes = admitted(choices, {"a": None, "b": None, "c": choices["c"].predicted(predictor(0.1))}, None)
    assert [chosen[name].mode for name in "abc"] == ["certified", "exact", "predictor"]
    assert notes == ("The predictors cost 1.00 % of quality on held-out data.",)


@pytest.mark.parametrize(("most", "modes"), [(1.0, {"a": "predictor", "b": "certified"}), (0.0, {"b": "certified"})])
def test_a_block_that_stays_dense_without_its_predictor_is_not_rewritten(most, modes):
    choices = {"a": choice("a", "dense"), "b": choice("b")}
    chosen, _, notes = admitted(choices, {"a": choices["a"].predicted(predictor(0.1))}, most)
    assert {name: found.mode for name, found in chosen.items()} == modes
    if most == 0:
        assert notes == ("a is dense: its predictor would let the quality drop by more than 0.",)


def test_where_all_would_stay_dense_it_is_refused():
    base = {"a": choice("a", "dense"), "b": choice("b", "dense")}
    for wanted in ({}, {"a": cut("a", 0.1), "b": cut("b", 0.2)}):
        with pytest.raises(CheckpointError, match=r"no block can be made sparser .* drop of quality \(0\)"):
            admitted(base, wanted, 0.0)
    chosen, _, _ = admitted(base, {"a": cut("a", 0.1), "b": cut("b", 0.2)}, 0.031)
    assert set(chosen) == {"a"}
