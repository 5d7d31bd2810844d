import numpy as np
import pytest

from lazyneuron.engine.artifact import InputSpec, OutputSpec, read_manifest
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.requests import RequestMaker
from tests.support.artifacts import manifest_of, write_sequence_encoder, write_text_classifier, write_vector_model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    manifest = read_manifest(write_text_classifier(tmp_path_factory.mktemp("text")))
    ids = manifest.inputs[0].model_copy(update={"minimum": 0, "maximum": 11})
    return manifest.model_copy(update={"inputs": (ids, *manifest.inputs[1:]), "max_lengths": {"sequence": 16}})


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    return read_manifest(write_sequence_encoder(tmp_path_factory.mktemp("sequence")))


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    return read_manifest(write_vector_model(tmp_path_factory.mktemp("vector")))


def ids(*shape):
    return np.ones(shape, np.int64)


def test_a_request_knows_its_size(text):
    request = RequestMaker(text).make({"input_ids": ids(2, 5)}, 1.0)
    assert (request.batch, request.length, request.tokens) == (2, 5, 10)
    np.testing.assert_array_equal(request.inputs["attention_mask"], np.ones((2, 5), np.int64))


def test_lists_are_taken_as_the_inputs_dtype(text):
    request = RequestMaker(text).make({"input_ids": [[1, 2, 3]]}, 1.0)
    assert request.inputs["input_ids"].dtype == np.int64


def test_unlike_lengths_share_a_batch_only_where_padding_can_be_told(text, vector):
    keys = {RequestMaker(text).make({"input_ids": ids(1, n)}, 1.0).shape_key for n in (3, 4)}
    assert len(keys) == 1
    no_mask = text.model_copy(update={"inputs": text.inputs[:1]})
    keys = {RequestMaker(no_mask).make({"input_ids": ids(1, n)}, 1.0).shape_key for n in (3, 4)}
    assert len(keys) == 2
    assert RequestMaker(vector).make({"x": np.zeros((3, 16), np.float32)}, 1.0).tokens == 3


@pytest.mark.parametrize(
    ("inputs", "budget", "says"),
    [
        ({}, 1.0, "input_ids: got no such input; expected inputs named ['input_ids', 'attention_mask']"),
        ({"ids": ids(1, 3)}, 1.0, "'ids': got an input of that name; expected inputs named"),
        ({"": ids(1, 3)}, 1.0, "'': got an input of that name"),
        ({"input_ids": np.ones((1, 3), np.int32)}, 1.0, "input_ids: got dtype int32; expected int64"),
        ({"input_ids": ids(3)}, 1.0, "input_ids: got rank 1 (shape [3]); expected shape [batch, sequence]"),
        ({"input_ids": ids(1, 0)}, 1.0, "input_ids: got an empty tensor (shape [1, 0])"),
        ({"input_ids": ids(0, 3)}, 1.0, "input_ids: got an empty tensor"),
        ({"input_ids": ids(1, 17)}, 1.0, "input_ids: got sequence 17; expected at most 16"),
        ({"input_ids": ids(1, 3) * 12}, 1.0, "input_ids: got the value 12; expected at most 11"),
        ({"input_ids": -ids(1, 3)}, 1.0, "input_ids: got the value -1; expected at least 0"),
        ({"input_ids": "words"}, 1.0, "input_ids: got values of dtype <U5"),
        ({"input_ids": [[1, 2], [3]]}, 1.0, "input_ids: got list"),
        ({"input_ids": [[2**70]]}, 1.0, "input_ids: got values of dtype object"),
        (
            {"input_ids": ids(1, 3), "attention_mask": ids(1, 4)},
            1.0,
            "attention_mask: got shape [1, 4], so sequence 4; expected sequence 3 as in the other inputs",
        ),
        ({"input_ids": [[1.7, 2.9]]}, 1.0, "input_ids: got values of dtype float64; expected int64"),
        ({"input_ids": [["3", "4"]]}, 1.0, "input_ids: got values of dtype <U1; expected int64"),
        ({"input_ids": np.ma.masked_array(ids(1, 3))}, 1.0, "input_ids: got a masked array"),
        (None, 1.0, "inputs: got NoneType; expected a mapping of arrays named ['input_ids', 'attention_mask']"),
        ([[1, 2]], 1.0, "inputs: got list; expected a mapping"),
        ({"input_ids": ids(1, 3)}, True, "budget: got True"),
        ({"input_ids": ids(1, 3)}, 0.0, "budget: got 0.0; expected a number greater than 0 and at most 1"),
        ({"input_ids": ids(1, 3)}, float("nan"), "budget: got nan"),
        ({"input_ids": ids(1, 3)}, 1.5, "budget: got 1.5"),
        ({"input_ids": ids(1, 3)}, "1", "budget: got '1'"),
    ],
)
def test_what_does_not_fit_is_named(text, inputs, budget, says):
    with pytest.raises(InputError) as caught:
        RequestMaker(text).make(inputs, budget)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found(sequence, value):
    x = np.zeros((2, 3, 16), np.float32)
    x[1, 2, 5] = value
    with pytest.raises(InputError, match=r"x: got -?(nan|inf) at \[1, 2, 5\]; expected finite numbers"):
        RequestMaker(sequence).make({"x": x}, 1.0)


def test_a_fixed_axis_is_checked(sequence):
    with pytest.raises(InputError, match=r"x: got shape \[1, 2, 15\]; expected shape \[batch, sequence, 16\]"):
        RequestMaker(sequence).make({"x": np.zeros((1, 2, 15), np.float32)}, 1.0)


@pytest.mark.parametrize("budget", [1, 0.5, np.float32(0.5), np.int64(1)])
def test_a_budget_may_be_any_kind_of_number(text, budget):
    assert RequestMaker(text).make({"input_ids": ids(1, 3)}, budget).budget == float(budget)


def test_an_image_of_any_size_is_counted_in_patches():
    pixels = InputSpec(name="pixel_values", dtype="float32", shape=("batch", 3, "height", "width"))
    logits = OutputSpec(name="logits", dtype="float32", shape=("batch", 100, 92))
    manifest = manifest_of(task="object-detection", inputs=(pixels,), outputs=(logits,))
    request = RequestMaker(manifest).make({"pixel_values": np.zeros((2, 3, 800, 1066), np.float32)}, 1.0)
    assert (request.length, request.tokens) == (50 * 67, 2 * 50 * 67)
    assert request.shape_key == (("height", 800), ("width", 1066))
