from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.artifact import InputSpec, OutputAgreement, OutputSpec, Quality
from lazyneuron.exporters import quality
from lazyneuron.exporters.quality import compare, drop, worst

MASK = InputSpec(name="mask", dtype="int64", shape=("batch", "sequence"), role="mask", pad=0)
LOGITS = OutputSpec(name="logits", dtype="float32", shape=("batch", "sequence", 2))


class Given:
    """A session that gives what it was told to."""

    def __init__(self, logits):
        self.logits = np.array(logits, np.float32)

    def run(self, names, feed):
        return [self.logits]


def agreement(dense, sparse, mask, *, argmax=True):
    feed = {"mask": np.array(mask)}
    expected = [(feed, [np.array(dense, np.float32)])]
    found = compare(expected, Given(sparse), (MASK,), (LOGITS,), argmax=argmax)
    assert found.examples == len(mask)
    assert worst(found) == found.outputs[0].max_rel_error
    return found.outputs[0]


def test_errors_are_relative_to_the_largest_entry():
    found = agreement([[[1, 4], [2, 1]]], [[[1.5, 4], [2, 1]]], [[1, 1]])
    assert (found.max_abs_error, found.max_rel_error, found.same_argmax) == (0.5, 0.125, 1.0)
    assert found.rms_rel_error == pytest.approx((0.25 / (1 + 16 + 4 + 1)) ** 0.5)


def test_padding_is_not_compared():
    found = agreement([[[1, 4], [2, 1]]], [[[1, 4], [99, 100]]], [[1, 0]])
    assert (found.max_abs_error, found.same_argmax) == (0.0, 1.0)


def test_argmax_over_real_rows():
    dense, sparse = [[[1, 4], [2, 1]]], [[[1, 4], [1, 2]]]
    assert agreement(dense, sparse, [[1, 1]]).same_argmax == 0.5
    assert agreement(dense, sparse, [[1, 1]], argmax=False).same_argmax is None


def test_an_output_may_be_a_number():
    scalar = OutputSpec(name="loss", dtype="float32", shape=())
    session = SimpleNamespace(run=lambda *_: [np.float32(1.5)])
    expected = [({"mask": np.ones((1, 2))}, [np.float32(2.0)])]
    output = compare(expected, session, (MASK,), (scalar,), argmax=True).outputs[0]
    assert (output.max_abs_error, output.same_argmax) == (0.5, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_only_one_of_them_has_is_an_error(value):
    assert agreement([[[1, value]]], [[[1, value]]], [[1]]).max_abs_error == 0.0
    assert agreement([[[1, 4]]], [[[1, value]]], [[1]]).max_rel_error > 1e300


@given(rows=st.integers(1, 40), width=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), piece=st.integers(1, 60))
def test_large_outputs_are_compared_in_pieces(rows, width, seed, piece):
    rng = np.random.default_rng(seed)
    dense, sparse = rng.normal(size=(2, rows, width)).astype(np.float32)
    spec = OutputSpec(name="logits", dtype="float32", shape=("batch", width))
    found = []
    for size in (piece, 1 << 20):
        with mock.patch.object(quality, "_PIECE", size):
            tally = quality.Tally(spec, argmax=True)
            tally.add(dense, sparse)
            found.append(tally.agreement())
    cut, whole = found
    same = {"max_abs_error", "max_rel_error", "same_argmax"}
    assert cut.model_dump(include=same) == whole.model_dump(include=same)
    assert cut.rms_rel_error == pytest.approx(whole.rms_rel_error, rel=1e-12)  # only sums are in another order


def test_the_drop_is_the_worst_outputs():
    def output(**given) -> OutputAgreement:
        return OutputAgreement(name="y", max_abs_error=9, max_rel_error=0.9, **given)

    assert drop(Quality(examples=1, outputs=(output(same_argmax=0.75, rms_rel_error=0.5),))) == 0.25
    assert drop(Quality(examples=1, outputs=(output(rms_rel_error=0.5),))) == 0.5
    assert drop(Quality(examples=1, outputs=(output(same_argmax=0.75), output(rms_rel_error=0.5)))) == 0.5
    assert drop(Quality(examples=1, outputs=(output(),))) == 0.9
