"""Top-k in training is the operators' top-k."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.reference import sparse_down
from lazyneuron.exporters.finetune.topk import keep_largest

F = 9


def by_the_operator(values, k, activation):
    y, active = sparse_down(values, np.eye(F, dtype=np.float32), activation=activation, top_k=k)
    return y, active


NUMBERS = st.sampled_from([-2.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.5])
ROWS = st.lists(st.lists(NUMBERS, min_size=F, max_size=F), min_size=1, max_size=6)


@given(values=ROWS, k=st.integers(1, F))
def test_it_keeps_what_the_reference_keeps_ties_too(values, k):
    array = np.array(values, np.float32)
    assert np.array_equal(keep_largest(torch.from_numpy(array), k).numpy(), by_the_operator(array, k, "identity")[0])
    positive = np.maximum(array, 0)
    assert np.array_equal(keep_largest(torch.from_numpy(positive), k).numpy(), by_the_operator(array, k, "relu")[0])


def test_the_gradient_flows_through_those_that_are_kept_alone():
    values = torch.tensor([[3.0, -4.0, 1.0, 0.0, 2.0]], requires_grad=True)
    (keep_largest(values, 2) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert values.grad.tolist() == [[1.0, 2.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("k", [4, 5])
def test_a_cap_that_cuts_nothing_changes_nothing(k):
    values = torch.randn(2, 3, 4)
    assert keep_largest(values, k) is values
