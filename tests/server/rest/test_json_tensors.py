"""Nested lists to bytes and back."""

import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyneuron.engine.errors import InputError
from lazyneuron.server.rest.json_tensors import NO_JSON, dump_array, flatten, tensor_bytes
from lazyneuron.server.tensors import DATATYPES, decode_strings

NAMES = sorted(set(DATATYPES) - set(NO_JSON))


def arrays(datatype: str) -> st.SearchStrategy[np.ndarray]:
    dtype = DATATYPES[datatype]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return hnp.arrays(dtype, hnp.array_shapes(min_side=1), elements=hnp.from_dtype(dtype, **finite))


@given(st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), arrays(name))))
def test_round_trip(case: tuple[str, np.ndarray]) -> None:
    datatype, array = case
    flat, shape = flatten("x", array.tolist())
    contents = tensor_bytes("x", datatype, flat)
    assert (contents, shape) == (array.tobytes(), list(array.shape))
    again, _ = flatten("x", orjson.loads(dump_array(contents, datatype)))
    assert tensor_bytes("x", datatype, again) == contents


def test_a_large_array_is_written_in_slices() -> None:
    array = np.arange(200_000, dtype=np.float32)
    assert orjson.loads(dump_array(array.tobytes(), "FP32")) == array.tolist()
    assert dump_array(b"", "FP32") == b"[]"
    assert dump_array(np.array([np.nan, np.inf], np.float32).tobytes(), "FP32") == b"[null,null]"


def test_strings() -> None:
    assert decode_strings(tensor_bytes("x", "BYTES", ["aé", ""])) == ["aé".encode(), b""]


def test_too_large_a_float_is_infinite() -> None:  # and so refused by the model's check
    assert np.frombuffer(tensor_bytes("x", "FP32", [1e300]), "<f4").tolist() == [np.inf]


REFUSED = [
    ("INT8", [300], "values from 300 to 300; expected -128 to 127, for INT8"),
    ("UINT64", [-1], "elements that are not UINT64"),
    ("INT64", [2**63], "elements that are not INT64"),
    ("INT64", [1.5], "elements that are not INT64"),
    ("FP32", ["1"], "elements that are not FP32"),
    ("FP32", [None], "elements that are not FP32"),
    ("FP32", [[1]], "elements that are not FP32"),
    ("FP32", [{}], "elements that are not FP32"),
    ("BOOL", [1], "not true or false"),
    ("BYTES", [1], "not strings"),
    ("FP16", [1], "'FP16' in JSON; expected binary data, for datatype FP16"),
    ("BF16", [1], "'BF16' in JSON; expected binary data"),
    ("FP8", [1], "datatype 'FP8' in JSON; expected one of BOOL"),
]


@pytest.mark.parametrize(("datatype", "flat", "words"), REFUSED)
def test_elements_that_are_refused(datatype: str, flat: list[object], words: str) -> None:
    with pytest.raises(InputError, match=f"data: got .*{words}"):
        tensor_bytes("data", datatype, flat)


@pytest.mark.parametrize("data", [[[1], 2], [1, [2]], [[1, 2], [3]], [[[1]], [2]], ["ab", ["c"]]])
def test_lists_that_are_no_tensor(data: list[object]) -> None:
    with pytest.raises(InputError):
        tensor_bytes("x", "FP32", flatten("x", data)[0])


def test_lists_that_are_too_deep() -> None:
    data: object = 1
    for _ in range(17):
        data = [data]
    with pytest.raises(InputError, match="at most 16 deep"):
        flatten("x", data)


def test_text_among_numbers_takes_no_memory() -> None:
    """NumPy would make an array of as many bytes for each element as the longest has: four gigabytes here."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            tensor_bytes("x", "FP32", flatten("x", [1.0] * 1000 + ["a" * 2**20])[0])
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
