"""The few shapes that batches are padded to: never smaller, hardly larger, and few."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.devices.buckets import SHORTEST, bucketed, rounded

SIZES = st.integers(1, 100_000)


def test_the_set_is_the_one_that_is_stated() -> None:
    assert sorted({rounded(size) for size in range(1, 65)}) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    lengths = {rounded(size, SHORTEST) for size in range(1, 2049)}
    assert sorted(lengths)[:4] == [16, 24, 32, 48]
    assert len(lengths) == 15


@given(SIZES)
def test_no_smaller_and_less_than_a_half_larger(size: int) -> None:
    assert size <= rounded(size) < 1.5 * size or size <= 2
    assert rounded(rounded(size)) == rounded(size)


@given(SIZES, SIZES)
def test_the_order_is_kept(first: int, second: int) -> None:
    assert (first <= second) <= (rounded(first) <= rounded(second))


@given(st.integers(1, 200), st.integers(1, 512), st.booleans())
def test_a_shape_holds_the_batch_and_keeps_to_the_limits(examples: int, length: int, paddable: bool) -> None:
    axes = {"batch": examples, "sequence": length}
    shape = bucketed(axes, {"sequence": 512}, 8192, paddable=paddable)
    if shape is None:
        assert rounded(examples) * (rounded(length, SHORTEST) if paddable else length) > 8192
        return
    assert math.prod(shape.values()) <= 8192
    assert shape["batch"] >= examples
    assert length <= shape["sequence"] <= 512
    assert paddable or shape["sequence"] == length


def test_no_longer_than_the_model_takes() -> None:
    assert bucketed({"batch": 1, "sequence": 70}, {"sequence": 77}, 8192, paddable=True) == {"batch": 1, "sequence": 77}


def test_a_model_without_symbolic_axes() -> None:
    assert bucketed({}, {}, 8192, paddable=False) == {}
