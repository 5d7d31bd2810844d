"""The generated code is what `proto/` says, and the Open Inference Protocol's numbers are the published ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor

from lazyneuron.protocol import (
    model_config_pb2,
    open_inference_pb2,
    open_inference_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
)

ROOT = Path(__file__).parents[2]
SOURCES = {"prediction": prediction_pb2, "open_inference": open_inference_pb2, "model_config": model_config_pb2}
MODULES = [(open_inference_pb2, open_inference_pb2_grpc), (prediction_pb2, prediction_pb2_grpc)]


@pytest.mark.parametrize("name", SOURCES)
def test_generated_messages_are_not_stale(name: str, tmp_path: Path) -> None:
    source = f"lazyneuron/protocol/{name}.proto"
    result = tmp_path / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}"]
    subprocess.run([*command, f"--descriptor_set_out={result}", source], check=True)
    fresh = descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto()
    SOURCES[name].DESCRIPTOR.CopyToProto(committed)
    _strip_json_names(fresh.message_type)
    _strip_json_names(committed.message_type)
    assert committed == fresh, "run `python proto/generate.py`"


def _strip_json_names(messages: object) -> None:
    for message in messages:  # type: ignore[attr-defined]
        for field in message.field:
            field.ClearField("json_name")  # protoc writes it out where it is implied
        _strip_json_names(message.nested_type)


@pytest.mark.parametrize(("messages", "services"), MODULES)
def test_generated_services_have_every_method(messages: object, services: object) -> None:
    descriptor: FileDescriptor = messages.DESCRIPTOR  # type: ignore[attr-defined]
    for service in descriptor.services_by_name.values():
        servicer = getattr(services, f"{service.name}Servicer")
        assert {m.name for m in service.methods} == {m for m in vars(servicer) if m[0].isupper()}


def test_generated_code_is_what_the_generator_writes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "proto" / "generate.py", tmp_path], capture_output=True, text=True, timeout=180
    )
    if done.returncode != 0 and "pip" in done.stderr:
        pytest.skip(f"the compiler cannot be installed here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    fresh = sorted((tmp_path / "lazyneuron" / "protocol").iterdir())
    assert fresh
    for path in fresh:
        committed = ROOT / "lazyneuron" / "protocol" / path.name
        assert committed.read_text() == path.read_text(), "run `python proto/generate.py`"


# From the published protocol (KServe v2 with Triton's additions): a client sends numbers, not names.
PUBLISHED = {
    "ServerLiveResponse": {"live": 1},
    "ServerReadyResponse": {"ready": 1},
    "ModelReadyRequest": {"name": 1, "version": 2},
    "ModelReadyResponse": {"ready": 1},
    "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
    "ModelMetadataRequest": {"name": 1, "version": 2},
    "ModelMetadataResponse": {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5},
    "ModelMetadataResponse.TensorMetadata": {"name": 1, "datatype": 2, "shape": 3},
    "InferParameter": {"bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5},
    "InferTensorContents": {
        "bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4, "uint64_contents": 5,
        "fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8,
    },
    "ModelInferRequest": {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
        "raw_input_contents": 7,
    },
    "ModelInferRequest.InferInputTensor": {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5},
    "ModelInferRequest.InferRequestedOutputTensor": {"name": 1, "parameters": 2},
    "ModelInferResponse": {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5, "raw_output_contents": 6,
    },
    "ModelInferResponse.InferOutputTensor": {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5},
    "RepositoryIndexRequest": {"repository_name": 1, "ready": 2},
    "RepositoryIndexResponse": {"models": 1},
    "RepositoryIndexResponse.ModelIndex": {"name": 1, "version": 2, "state": 3, "reason": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_open_inference_numbers_are_the_published_ones(name: str) -> None:
    outer, _, inner = name.partition(".")
    message: Descriptor = open_inference_pb2.DESCRIPTOR.message_types_by_name[outer]
    if inner:
        message = message.nested_types_by_name[inner]
    assert {field.name: field.number for field in message.fields} == PUBLISHED[name]


def test_open_inference_service_is_named_as_published() -> None:
    assert open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name == (
        "inference.GRPCInferenceService"
    )
