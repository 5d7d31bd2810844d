from types import SimpleNamespace

import numpy as np
import pytest

from lazyneuron.engine.artifact import InputSpec, OutputAgreement, OutputSpec, Quality
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
    quality = compare(Given(dense), Given(sparse), (MASK,), (LOGITS,), [feed], argmax=argmax)
    assert quality.examples == len(mask)
    assert worst(quality) == quality.outputs[0].max_rel_error
    return quality.outputs[0]


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
    sessions = [SimpleNamespace(run=lambda *_, value=value: [np.float32(value)]) for value in (2.0, 1.5)]
    quality = compare(*sessions, (MASK,), (scalar,), [{"mask": np.ones((1, 2))}], argmax=True)
    assert (quality.outputs[0].max_abs_error, quality.outputs[0].same_argmax) == (0.5, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_only_one_of_them_has_is_an_error(value):
    assert agreement([[[1, value]]], [[[1, value]]], [[1]]).max_abs_error == 0.0
    assert agreement([[[1, 4]]], [[[1, value]]], [[1]]).max_rel_error > 1e300


def test_the_drop_is_the_worst_outputs():
    def output(**given) -> OutputAgreement:
        return OutputAgreement(name="y", max_abs_error=9, max_rel_error=0.9, **given)

    assert drop(Quality(examples=1, outputs=(output(same_argmax=0.75, rms_rel_error=0.5),))) == 0.25
    assert drop(Quality(examples=1, outputs=(output(rms_rel_error=0.5),))) == 0.5
    assert drop(Quality(examples=1, outputs=(output(same_argmax=0.75), output(rms_rel_error=0.5)))) == 0.5
    assert drop(Quality(examples=1, outputs=(output(),))) == 0.9
