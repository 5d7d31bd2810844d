"""Messages that gRPC clients compress: read as any other, and no larger than any other may be."""

import re
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lazyneuron.engine.errors import InputError
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.compression import decompressed
from tests.server.test_predict import request_for
from tests.support.server import ServerProcess

X = {"x": np.ones((64, 16), np.float32)}
COMPRESSED = [grpc.Compression.Gzip, grpc.Compression.Deflate]


@pytest.mark.parametrize("compression", COMPRESSED)
def test_compressed_messages_are_read(channel: grpc.Channel, compression: grpc.Compression) -> None:
    predict = PredictionServiceStub(channel).Predict
    plain = predict(request_for("vector", X), timeout=20)
    assert predict(request_for("vector", X), timeout=20, compression=compression).outputs == plain.outputs
    infer = oip.ModelInferRequest(model_name="vector", raw_input_contents=[X["x"].tobytes()])
    infer.inputs.add(name="x", datatype="FP32", shape=X["x"].shape)
    stream = GRPCInferenceServiceStub(channel).ModelStreamInfer
    assert [a.error_message for a in stream(iter([infer] * 2), timeout=20, compression=compression)] == ["", ""]
    about = health_pb2.HealthCheckRequest(service="a" * 1000)  # long enough that compressing it is worth it
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(about, timeout=20, compression=compression)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("compression", COMPRESSED)
def test_a_message_that_swells_is_refused_before_it_has(server: ServerProcess, compression: grpc.Compression) -> None:
    def peak() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]

    before = peak()
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        request = request_for("vector", {"x": np.zeros((5_000_000, 16), np.float32)})
        with pytest.raises(grpc.RpcError, match=r"more than 67108864 bytes once decompressed.*max_message_bytes"):
            PredictionServiceStub(channel).Predict(request, timeout=60, compression=compression)
    assert peak() - before < 200_000  # KiB; the message is of 320 MB


def test_what_is_damaged_is_told() -> None:
    whole = zlib.compress(b"abc" * 100)
    assert decompressed(whole, 300) == b"abc" * 100
    for damaged in (whole[:-1], whole + b"x", b"x", b"\x1f\x8b", b"x\x9cnonsense", b"\x1fnonsense"):
        with pytest.raises(InputError, match="message: got"):
            decompressed(damaged, 300)
    with pytest.raises(InputError, match="more than 299 bytes"):
        decompressed(whole, 299)
