"""Triton's classification extension."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyneuron.server.services.classification import classified

LABELS = ("cat", "dog", "cow")


def test_the_largest_first_with_their_names() -> None:
    array = np.array([[0.25, -1.5, 3.0], [2.0, 2.0, 1.0]], np.float32)
    assert classified(array, 2, LABELS, batched=True) == (
        [2, 2],
        [b"3.000000:2:cow", b"0.250000:0:cat", b"2.000000:0:cat", b"2.000000:1:dog"],
    )


def test_without_a_batch_axis_it_is_one_example() -> None:
    assert classified(np.array([1, 7], np.int64), 1, None, batched=False) == ([1], [b"7.000000:1"])


@pytest.mark.parametrize("labels", [None, LABELS])
def test_labels_of_another_length_are_left_out(labels: tuple[str, ...] | None) -> None:
    assert classified(np.zeros((1, 2, 2), np.float32), 9, labels, batched=True) == (
        [1, 4],
        [b"0.000000:0", b"0.000000:1", b"0.000000:2", b"0.000000:3"],
    )


@given(
    array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
                     elements=st.floats(-100, 100, width=32)),
    classes=st.integers(1, 30),
)  # fmt: skip
def test_values_and_places_agree(array: np.ndarray, classes: int) -> None:
    (examples, count), names = classified(array, classes, None, batched=True)
    rows = array.reshape(array.shape[0], -1)
    assert (examples, count) == (len(rows), min(classes, rows.shape[1]))
    for row, start in zip(rows, range(0, len(names), count), strict=True):
        found = [name.decode().split(":") for name in names[start : start + count]]
        assert [value for value, _ in found] == [f"{value:f}" for value in sorted(row.tolist(), reverse=True)[:count]]
        assert all(f"{row[int(place)]:f}" == value for value, place in found)
