"""Wire to NumPy and back, for every datatype; and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyneuron.engine.errors import InputError
from lazyneuron.protocol.open_inference_pb2 import InferTensorContents
from lazyneuron.server.tensors import DATATYPES, datatype_of, decode, decode_text, decode_typed, encode

NONE = InferTensorContents()


@given(st.sampled_from(sorted(DATATYPES)).flatmap(lambda n: hnp.arrays(DATATYPES[n], hnp.array_shapes(min_side=0))))
def test_round_trip(array: np.ndarray) -> None:
    again = decode("x", *encode(array))
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


def test_big_endian_and_strided_arrays_are_sent_little_endian_and_dense() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    assert decode("x", *encode(array)).tolist() == array.tolist()


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "FP16"])
def test_typed_contents(datatype: str) -> None:
    field = {"B": "bool", "I": "int64" if datatype == "INT64" else "int"}.get(datatype[0])
    field = field or {"UINT64": "uint64", "FP32": "fp32", "FP64": "fp64"}.get(datatype, "uint")
    contents = InferTensorContents(**{f"{field}_contents": [0, 1, 1, 0]})
    array = decode_typed("x", datatype, [2, 2], contents)
    assert array.dtype == DATATYPES[datatype]
    assert array.tolist() == [[0, 1], [1, 0]]


def test_any_non_zero_byte_is_true() -> None:
    assert decode("x", "BOOL", [3], b"\x00\x01\x02").tolist() == [False, True, True]


def test_a_text_raw_and_typed() -> None:
    assert decode_text("text", [1], b"\x03\0\0\0a\xc3\xa9", NONE) == "aé"
    assert decode_text("text", [1, 1], None, InferTensorContents(bytes_contents=[b"few"])) == "few"


REFUSED = [
    (lambda: decode("x", "FP32", [2], b"\0" * 7), r"input 'x': got 7 bytes of contents; expected 8 \(FP32 of shape"),
    (lambda: decode("x", "FP32", [-1], b""), "no negative length"),
    (lambda: decode("x", "FP32", [2**62, 2**62], b""), "got 0 bytes of contents; expected 8507"),
    (lambda: decode("x", "FP32", [0, 2**62, 2**62], b""), "no lengths as large beside one of 0"),
    (lambda: decode("x", "FP32", [1] * 17, b"\0" * 4), "rank 17; expected at most 16"),
    (lambda: decode("x", "BF16", [1], b"\0\0"), "datatype 'BF16'; expected one of BOOL, INT8"),
    (lambda: decode("", "", [1], b"\0\0"), "input '': got datatype ''"),
    (lambda: decode_typed("x", "FP16", [1], NONE), "typed contents of FP16; expected raw_input_contents"),
    (lambda: decode_typed("x", "INT8", [1], InferTensorContents(int_contents=[300])), "300 .*; expected -128 to 127"),
    (lambda: decode_typed("x", "UINT8", [1], InferTensorContents(uint_contents=[256])), "expected 0 to 255"),
    (lambda: decode_typed("x", "FP32", [1], InferTensorContents(int_contents=[1])), "int_contents for datatype FP32"),
    (lambda: decode_typed("x", "FP32", [2], InferTensorContents(fp32_contents=[1])), "1 values in fp32_contents"),
    (lambda: decode_text("t", [2], b"", NONE), "expected one string"),
    (lambda: decode_text("t", [1], b"\x09\0\0\0a", NONE), "expected a 4-byte length and that many bytes"),
    (lambda: decode_text("t", [1], b"\x01\0", NONE), "got 2 bytes"),
    (lambda: decode_text("t", [1], b"\x01\0\0\0\xff", NONE), "not UTF-8"),
    (lambda: decode_text("t", [1], None, NONE), "0 strings in bytes_contents"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED)
def test_refused(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()  # type: ignore[operator]


def test_a_dtype_that_the_protocol_lacks() -> None:
    with pytest.raises(KeyError):
        datatype_of(np.dtype("U3"))
