"""Probabilities against scipy's, and the best of them against a full sort."""

import numpy as np
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyneuron.engine.heads.scores import best, candidates, class_name, sigmoid, softmax

LOGITS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=20), elements=st.floats(-3e4, 3e4, width=32)
)


@given(LOGITS)
def test_probabilities_are_scipys(logits):
    np.testing.assert_allclose(
        softmax(logits), scipy.special.softmax(logits.astype(np.float64), -1), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(sigmoid(logits), scipy.special.expit(logits.astype(np.float64)), rtol=0, atol=1e-12)


@given(
    hnp.arrays(np.float64, st.integers(0, 30), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan])),
    st.integers(0, 40),
)
def test_the_best_are_those_of_a_full_sort(scores, count):
    order = sorted(range(len(scores)), key=lambda i: (np.isnan(scores[i]), -np.nan_to_num(scores[i]), i))
    assert best(scores, count) == order[:count]


def test_a_class_without_a_label_is_its_number():
    found = candidates(np.array([0.1, 0.7, 0.2]), 2, class_name(["zero", "one"]))
    assert [(c.label, c.id, c.score) for c in found] == [("one", 1, 0.7), ("2", 2, 0.2)]
    assert class_name(None)(3) == "3"
