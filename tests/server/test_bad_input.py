"""Every kind of bad request gets its status and a message that names what is wrong, and the server goes on."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from tests.server.test_predict import request_for
from tests.support.server import ServerProcess, until

PREDICT = "/lazyneuron.v1.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
X = np.ones((1, 4, 16), np.float32)
MASK = np.ones((1, 4), np.int64)


@dataclass
class Bad:
    make: Callable[[], bytes]
    message: str
    code: str = "INVALID_ARGUMENT"
    method: str = PREDICT


def sequence(**fields: object) -> Callable[[], bytes]:
    """A request of the sequence model whose inputs are `fields`."""
    return lambda: request_for("sequence", fields).SerializeToString()  # type: ignore[arg-type]


def changed(**tensor: object) -> Callable[[], bytes]:
    """A request of the sequence model, its first tensor's wire form changed."""

    def make() -> bytes:
        request = request_for("sequence", {"x": X})
        for name, value in tensor.items():
            if name == "shape":
                del request.inputs.tensors[0].shape[:]
                request.inputs.tensors[0].shape.extend(value)  # type: ignore[arg-type]
            else:
                setattr(request.inputs.tensors[0], name, value)
        return request.SerializeToString()

    return make


def text(name: str, value: str = "lazy", **fields: object) -> Callable[[], bytes]:
    return lambda: request_for(name, value, **fields).SerializeToString()


def infer(model: str = "vector", version: str = "", raw: list[bytes] | None = None, **tensor: object) -> bytes:
    fields = {"name": "x", "datatype": "FP32", "shape": [1, 16]} | tensor
    request = oip.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=raw or [])
    request.inputs.add(**fields)  # type: ignore[arg-type]
    return request.SerializeToString()


def parametrised(**parameters: object) -> bytes:
    request = oip.ModelInferRequest.FromString(infer(raw=[b"\0" * 64]))
    for name, value in parameters.items():
        request.parameters[name].string_param = str(value)
    return request.SerializeToString()


def twice() -> bytes:
    request = request_for("sequence", {"x": X})
    request.inputs.tensors.append(request.inputs.tensors[0])
    return request.SerializeToString()


def many_outputs(number: int) -> bytes:
    request = oip.ModelInferRequest(model_name="vector", outputs=[{"name": "logits"}] * number)
    return request.SerializeToString()


def unknown_output() -> bytes:
    request = oip.ModelInferRequest.FromString(infer(raw=[b"\0" * 64]))
    request.outputs.add(name="logit")
    return request.SerializeToString()


def shared_memory() -> bytes:
    request = oip.ModelInferRequest.FromString(infer())
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return request.SerializeToString()


HOLE = X.copy()
HOLE[0, 2, 5] = np.nan
ENDLESS = X.copy()
ENDLESS[0, 0, 0] = np.inf
CONTENTS = oip.InferTensorContents(fp32_contents=[1.0] * 16)

KINDS = {
    "wrong dtype": Bad(sequence(x=X.astype(np.float64)), r"x: got dtype float64; expected float32"),
    "wrong rank": Bad(sequence(x=X[0]), r"x: got rank 2 \(shape \[4, 16\]\); expected shape \[batch, sequence, 16\]"),
    "wrong width": Bad(sequence(x=X[:, :, :8]), r"x: got shape \[1, 4, 8\]; expected shape \[batch, sequence, 16\]"),
    "wrong name": Bad(sequence(y=X), r"'y': got an input of that name; expected inputs named \['x', 'attention_mask'"),
    "extra input": Bad(sequence(x=X, z=X), r"'z': got an input of that name"),
    "missing input": Bad(sequence(attention_mask=MASK), r"x: got no such input"),
    "empty name": Bad(changed(name=""), r"'': got an input of that name"),
    "inputs that disagree": Bad(sequence(x=X, attention_mask=MASK[:, :3]), r"mask: .*sequence 3; expected .*4"),
    "mask of another dtype": Bad(sequence(x=X, attention_mask=MASK.astype(np.int32)), r"mask: got dtype int32"),
    "NaN": Bad(sequence(x=HOLE), r"x: got nan at \[0, 2, 5\]; expected finite numbers"),
    "infinity": Bad(sequence(x=ENDLESS), r"x: got inf at \[0, 0, 0\]"),
    "empty tensor": Bad(sequence(x=X[:, :0]), r"x: got an empty tensor"),
    "no input at all": Bad(lambda: pb.PredictRequest(model_name="text").SerializeToString(), r"input: got neither"),
    "the same input twice": Bad(twice, r"input 'x': got it twice"),
    "contents too short": Bad(changed(data=b"\0" * 255), r"input 'x': got 255 bytes of contents; expected 256"),
    "contents too long": Bad(changed(data=b"\0" * 257), r"input 'x': got 257 bytes of contents; expected 256"),
    "negative length": Bad(changed(shape=[-1, 4, 16]), r"input 'x': got shape \[-1, 4, 16\]; expected no negative"),
    "lengths that overflow": Bad(changed(shape=[2**32, 2**32, 16]), r"got 256 bytes of contents; expected 118059162"),
    "rank without end": Bad(changed(shape=[1] * 1000), r"got rank 1000; expected at most 16"),
    "unknown datatype": Bad(changed(datatype="FLOAT"), r"got datatype 'FLOAT'; expected one of BOOL"),
    "unknown model": Bad(text("texts"), r"no model named 'texts'; the server has: sequence, text, vector", "NOT_FOUND"),
    "no model's name": Bad(text(""), r"no model named ''; the server has", "NOT_FOUND"),
    "broken model": Bad(text("broken"), r"no model named 'broken' \(.*cut short", "NOT_FOUND"),
    "unknown version": Bad(text("text", model_version=7), r"text has no version 7; the server has: 1", "NOT_FOUND"),
    "text without a tokenizer": Bad(text("vector"), r"text: got text; expected tensors .* no tokenizer"),
    "text without a token": Bad(text("text", " "), r"text: got 0 tokens; expected 1 to 64"),
    "text that is too long": Bad(text("text", "lazy " * 65), r"text: got 65 tokens; expected 1 to 64"),
    "budget 0": Bad(text("text", budget=0.0), r"budget: got 0.0; expected a number greater than 0 and at most 1"),
    "budget above 1": Bad(text("text", budget=1.5), r"budget: got 1.5"),
    "budget NaN": Bad(text("text", budget=float("nan")), r"budget: got nan"),
    "truncated protobuf": Bad(lambda: sequence(x=X)()[:-3], r"message: got \d+ bytes that do not parse"),
    "garbage": Bad(lambda: b"\xff\xfe" * 500, r"message: got 1000 bytes that do not parse"),
    "garbage to ModelInfer": Bad(lambda: b"\x07garbage", r"message: got 8 bytes that do not parse", method=INFER),
    "100 MB": Bad(lambda: changed(data=b"\0" * 100_000_000)(), r"larger than max \(\d+ vs. 67108864\)",
                  "RESOURCE_EXHAUSTED"),
    "more tokens than the queue": Bad(lambda: request_for("vector", {"x": np.ones((131_073, 16), np.float32)})
                                      .SerializeToString(), r"inputs: got 131073 tokens; expected at most 131072"),
    "a message from another service": Bad(lambda: request_for("text", "lazy").SerializeToString(),
                                          r"input_ids: got no such input", "INVALID_ARGUMENT", INFER),
    "raw and typed": Bad(lambda: infer(raw=[b"\0" * 64], contents=CONTENTS), r"both raw and typed", method=INFER),
    "raw of a wrong size": Bad(lambda: infer(raw=[b"\0" * 60]), r"input 'x': got 60 bytes.* expected 64", method=INFER),
    "too many raw": Bad(lambda: infer(raw=[b"", b""]), r"raw_input_contents: got 2 entries; expected 1", method=INFER),
    "no contents": Bad(lambda: infer(), r"input 'x': got 0 values in fp32_contents; expected 16", method=INFER),
    "contents of another type": Bad(lambda: infer(contents=oip.InferTensorContents(int64_contents=[1] * 16)),
                                    r"got int64_contents for datatype FP32; expected fp32_contents", method=INFER),
    "version that is no number": Bad(lambda: infer(version="latest"), r"model_version: got 'latest'", method=INFER),
    "unknown version of ModelInfer": Bad(lambda: infer(version="9"), r"vector has no version 9", "NOT_FOUND", INFER),
    "unknown output": Bad(unknown_output, r"outputs: got 'logit'; expected some of \['logits'\]", method=INFER),
    "shared memory": Bad(shared_memory, r"input 'x': got the parameter shared_memory_region", method=INFER),
    "many outputs": Bad(lambda: many_outputs(1025), r"outputs: got 1025 of them; expected at most 1024", method=INFER),
    "budget in words": Bad(lambda: parametrised(budget="half"), r"parameters.budget: got 'half'", method=INFER),
    "bytes for numbers": Bad(lambda: infer(datatype="BYTES", raw=[b""]), r"'x': got datatype BYTES", method=INFER),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_refused(channel: grpc.Channel, kind: str) -> None:
    bad = KINDS[kind]
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(bad.method)(bad.make(), timeout=30)
    details = caught.value.details()
    assert caught.value.code() is grpc.StatusCode[bad.code], details
    assert re.search(bad.message, details), details
    assert "Traceback" not in details
    good = PredictionServiceStub(channel).Predict(request_for("text", "lazy neurons"), timeout=30)
    assert good.model_name == "text"


def test_a_call_that_is_not_there_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelTelepathy")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_internal_fault_is_told_in_the_log_only(channel: grpc.Channel, server: ServerProcess) -> None:
    ids = np.array([[2, 10**9]])  # passes every check, and fails inside ONNX Runtime
    with pytest.raises(grpc.RpcError) as caught:
        PredictionServiceStub(channel).Predict(request_for("text", {"input_ids": ids}), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    found = re.fullmatch(r"internal error; the server's log has it under request (\w{16})", caught.value.details())
    assert found is not None
    until(lambda: f"request {found[1]} (/lazyneuron.v1" in server.log.read_text(), "the log has it")


def test_unknown_names_make_no_series(channel: grpc.Channel, server: ServerProcess) -> None:
    before = {labels for name, labels in server.metrics() if name == "lazyneuron_requests_total"}
    stub = PredictionServiceStub(channel)
    for index in range(50):
        with pytest.raises(grpc.RpcError):
            stub.Predict(request_for(f"made-up-{index}", "lazy"))
    after = {labels for name, labels in server.metrics() if name == "lazyneuron_requests_total"}
    assert len(after - before) <= 1
    assert not any("made-up" in value for labels in after for _, value in labels)
