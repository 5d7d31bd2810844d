import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.exporters.predictors.thresholds import Scored, choose_threshold


def recall(scores: np.ndarray, threshold: float) -> float:
    return float((scores > threshold).mean())


@given(st.integers(1, 3000), st.integers(1, 60), st.sampled_from([0.5, 0.9, 0.99, 0.999]), st.integers(0, 99))
def test_the_recall_is_kept_on_its_own_data(count, examples, wanted, seed):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal(count), 1).astype(np.float32)  # rounded, so that some are equal
    example = np.sort(rng.integers(0, examples, count))
    threshold = choose_threshold(Scored(scores, example), wanted)
    assert recall(scores, threshold) >= wanted - 1e-12


@given(st.integers(0, 99), st.sampled_from([0.9, 0.99]))
def test_little_more_is_kept_than_has_to_be_where_groups_are_alike(seed, wanted):
    scores = np.repeat(np.random.default_rng(seed).standard_normal(1000).astype(np.float32), 10)
    example = np.tile(np.arange(10), 1000)
    order = np.argsort(example, kind="stable")
    threshold = choose_threshold(Scored(scores[order], example[order]), wanted)
    chance = np.sqrt(wanted * (1 - wanted) / len(scores))
    assert wanted <= recall(scores, threshold) <= wanted + 3 * chance + 0.001  # each score is there ten times


def test_groups_that_differ_lower_the_threshold():
    rng = np.random.default_rng(0)
    example = np.repeat(np.arange(100), 100)
    alike = rng.standard_normal(10_000).astype(np.float32)
    unlike = alike + np.repeat(rng.standard_normal(10), 1000).astype(np.float32)
    at = {name: choose_threshold(Scored(s, example), 0.99) for name, s in (("alike", alike), ("unlike", unlike))}
    # Sources come in runs of ten examples: the recall is kept in nearly all of them, not only on the average.
    kept = [recall(part, at["unlike"]) for part in np.split(unlike, 10)]
    assert sorted(kept)[1] >= 0.985
    assert recall(alike, at["alike"]) < recall(unlike, at["unlike"])


def test_no_active_neuron_is_no_error():
    assert choose_threshold(Scored(np.empty(0, np.float32), np.empty(0, np.int32)), 0.99) == 0.0
