import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.exporters.evaluation.scoring import score_classes, score_errors, score_vectors
from lazyneuron.exporters.evaluation.statistics import DENSE, SPARSE, Column, Groups, measure


def value(name, sums):
    groups = Groups()
    groups.add(sums)
    return measure(name, groups, same=False)


@given(st.integers(1, 600), st.integers(2, 12), st.integers(0, 1000))
def test_logits_against_targets(rows, classes, seed):
    rng = np.random.default_rng(seed)
    dense, sparse = rng.normal(size=(2, rows, classes)).astype(np.float32) * 3
    targets = rng.integers(0, classes, rows)
    sums = score_classes(dense, sparse, targets)
    assert sums[DENSE, Column.ROWS] == rows
    for graph, logits in ((DENSE, dense), (SPARSE, sparse)):
        loss = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="sum"
        )
        assert sums[graph, Column.SURPRISE] == pytest.approx(loss.item(), rel=1e-9)
        assert sums[graph, Column.CORRECT] == (logits.argmax(-1) == targets).sum()
    assert sums[SPARSE, Column.AGREE] == (dense.argmax(-1) == sparse.argmax(-1)).sum()


def test_the_calibration_error_by_hand():
    # Confidences 0.9, 0.9 (one right) and 0.6 (right): two bins, gaps |1.8 − 1| and |0.6 − 1|, over three rows.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    sums = score_classes(np.log(probabilities), np.log(probabilities), np.array([0, 1, 0]))
    assert value("expected calibration error", sums).dense == pytest.approx((0.8 + 0.4) / 3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_losses_and_no_crash(wrong):
    dense = np.array([[2.0, 1.0], [1.0, 2.0]], np.float32)
    sparse = dense.copy()
    sparse[0, 0] = wrong
    sums = score_classes(dense, sparse, np.array([0, 1]))
    assert np.isfinite(sums).all()
    assert value("relative error", sums).sparse > 1e10


def test_errors_are_relative_to_the_dense_output():
    sums = score_errors(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]), argmax=True)
    found = value("relative error", sums)
    assert (found.dense, found.sparse) == (0, pytest.approx(1 / 5))


def test_cosines():
    sums = score_vectors(np.array([1.0, 0.0], np.float32), np.array([1.0, 1.0], np.float32))
    assert value("cosine", sums).sparse == pytest.approx(2**-0.5)
    zero = np.zeros(2, np.float32)
    assert value("cosine", score_vectors(zero, zero)).sparse == 1
    assert value("cosine", score_vectors(zero, zero + 1)).sparse == 0
