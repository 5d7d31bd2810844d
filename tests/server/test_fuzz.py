"""Requests that nobody would write: each is answered, and none finds a fault of the server's."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.tensors import DATATYPES
from tests.server.test_bad_input import INFER, PREDICT

EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
SHARED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Near enough to right for every check to be reached.
models = st.sampled_from(["vector", "vector", "sequence", "text", "broken", ""]) | st.text(max_size=5)
names = st.sampled_from(["x", "x", "x", "attention_mask", "text", ""]) | st.text(max_size=5)
datatypes = st.sampled_from(["FP32", "FP32", "FP32", "INT64", "BYTES", "BF16", *DATATYPES]) | st.text(max_size=5)
lengths = st.sampled_from([0, 1, 1, 2, 4, 16, 16, -1, 2**31, 2**63 - 1, -(2**63)])
shapes = st.sampled_from([[1, 16], [2, 16], [1, 1, 16], [1]]) | st.lists(lengths, max_size=5)
data = st.sampled_from([64, 128, 8, 0]).flatmap(lambda n: st.binary(min_size=n, max_size=n)) | st.binary(max_size=70)
parameters = st.dictionaries(
    st.sampled_from(["budget", "other", "classification"]),
    st.sampled_from([{"double_param": 0.5}, {"double_param": float("nan")}, {"string_param": "inf"},
                     {"bool_param": True}, {"int64_param": 1}, {"uint64_param": 0}, {}]),
    max_size=2,
)  # fmt: skip
contents = st.sampled_from(
    [{}, {"fp32_contents": [0.0] * 16}, {"fp32_contents": [1e39] * 16}, {"int_contents": [-1]},
     {"bytes_contents": [b"lazy"]}, {"bytes_contents": [b"\xff"]}, {"int64_contents": [1, 1]}]
)  # fmt: skip

tensors = st.fixed_dictionaries({"name": names, "datatype": datatypes, "shape": shapes})
infer_requests = st.fixed_dictionaries(
    {
        "model_name": models,
        "model_version": st.sampled_from(["", "", "", "1", "0", "-1", "٣", "9" * 30, "x"]),
        "parameters": parameters,
        "inputs": st.lists(st.tuples(tensors, contents).map(lambda t: t[0] | {"contents": t[1]}), max_size=3),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["logits", "y", ""])}), max_size=2),
        "raw_input_contents": st.lists(data, max_size=3),
    }
)
predict_requests = st.fixed_dictionaries(
    {"model_name": models},
    optional={
        "model_version": st.sampled_from([1, 1, 0, -1, 2**63 - 1]),
        "budget": st.floats(width=32),
        "inputs": st.lists(st.tuples(tensors, data).map(lambda t: t[0] | {"data": t[1]}), max_size=3).map(
            lambda tensors: {"tensors": tensors}
        ),
    },
)


def code_of(channel: grpc.Channel, method: str, message: bytes) -> str:
    call = channel.unary_unary(method).future(message, timeout=20)
    code: str = call.code().name
    assert code == "OK" or call.details()
    return code


@SHARED
@given(fields=infer_requests)
def test_model_infer(channel: grpc.Channel, fields: dict[str, Any]) -> None:
    assert code_of(channel, INFER, oip.ModelInferRequest(**fields).SerializeToString()) in EXPECTED


@SHARED
@given(fields=predict_requests)
def test_predict(channel: grpc.Channel, fields: dict[str, Any]) -> None:
    assert code_of(channel, PREDICT, pb.PredictRequest(**fields).SerializeToString()) in EXPECTED


@pytest.mark.parametrize("method", [PREDICT, INFER])
@SHARED
@given(message=st.binary(max_size=300))
def test_bytes(channel: grpc.Channel, method: str, message: bytes) -> None:
    assert code_of(channel, method, message) in EXPECTED


def test_the_decoders_under_guided_fuzzing(tmp_path: Path) -> None:
    """For a few seconds here; `python -m tests.server.fuzz_decoder` goes on for as long as one likes."""
    pytest.importorskip("atheris", reason="there is no atheris for this Python")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.server.fuzz_decoder", "corpus", "-max_total_time=8", "-print_final_stats=1"]
    paths = f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}; {[path.name for path in tmp_path.glob('*-*')]}"
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 100
