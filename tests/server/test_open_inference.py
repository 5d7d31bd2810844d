"""The Open Inference Protocol over a socket, by a client that knows only what reflection tells it."""

from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from lazyneuron.engine.model import Model
from lazyneuron.server.tensors import decode_strings
from tests.support.server import ServerProcess

SERVICE = "inference.GRPCInferenceService"


class ReflectionClient:
    """Calls a method by name with a dict, as grpcurl does."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self.database)
        self._channel = channel

    def call(self, service: str, method: str, **fields: Any) -> Any:
        descriptor = self._pool.FindServiceByName(service).methods_by_name[method]
        request = GetMessageClass(descriptor.input_type)(**fields)
        answer = GetMessageClass(descriptor.output_type)
        stub = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=None, response_deserializer=answer.FromString
        )
        return stub(request.SerializeToString(), timeout=30)

    def infer(self, **fields: Any) -> Any:
        return self.call(SERVICE, "ModelInfer", **fields)


@pytest.fixture
def client(channel: grpc.Channel) -> ReflectionClient:
    return ReflectionClient(channel)


@pytest.fixture(scope="module")
def vector(repository: Any) -> Model:
    return Model.load(repository / "vector")


X = np.random.default_rng(4).normal(size=(3, 16)).astype(np.float32)
TENSOR = {"name": "x", "datatype": "FP32", "shape": [3, 16]}


def test_reflection_lists_every_service(client: ReflectionClient) -> None:
    assert set(client.database.get_services()) == {
        SERVICE,
        "lazyneuron.v1.PredictionService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_reflection_is_enough_for_our_own_service(client: ReflectionClient) -> None:
    answer = client.call("lazyneuron.v1.PredictionService", "Predict", model_name="text", text="lazy neurons")
    assert [output.name for output in answer.outputs] == ["logits", "hidden"]


def test_live_ready_and_metadata(client: ReflectionClient) -> None:
    assert client.call(SERVICE, "ServerLive").live
    assert client.call(SERVICE, "ServerReady").ready
    assert client.call(SERVICE, "ModelReady", name="vector").ready
    assert client.call(SERVICE, "ModelReady", name="vector", version="1").ready
    assert not client.call(SERVICE, "ModelReady", name="vector", version="2").ready
    assert not client.call(SERVICE, "ModelReady", name="broken").ready
    assert client.call(SERVICE, "ServerMetadata").name == "lazyneuron"


def test_model_metadata(client: ReflectionClient) -> None:
    metadata = client.call(SERVICE, "ModelMetadata", name="sequence")
    assert (metadata.name, list(metadata.versions)) == ("sequence", ["1"])
    inputs = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    assert inputs == {"x": ("FP32", [-1, -1, 16]), "attention_mask": ("INT64", [-1, -1])}
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("y", "FP32", [-1, -1, 16])]


def test_configuration_and_statistics(client: ReflectionClient) -> None:
    config = client.call(SERVICE, "ModelConfig", name="sequence", version="1").config
    assert [(i.name, list(i.dims), i.optional) for i in config.input] == [
        ("x", [-1, 16], False),
        ("attention_mask", [-1], True),
    ]
    client.infer(model_name="vector", inputs=[TENSOR], raw_input_contents=[X.tobytes()])
    (statistics,) = client.call(SERVICE, "ModelStatistics", name="vector").model_stats
    assert statistics.inference_count >= 3
    assert {m.name for m in client.call(SERVICE, "ModelStatistics").model_stats} == {"sequence", "text", "vector"}
    for method in ("ModelConfig", "ModelStatistics"):
        for missing in ({"name": "nothing"}, {"name": "vector", "version": "9"}):
            with pytest.raises(grpc.RpcError) as caught:
                client.call(SERVICE, method, **missing)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_classes_instead_of_numbers(client: ReflectionClient, vector: Model) -> None:
    output = {"name": "logits", "parameters": {"classification": {"int64_param": 1}}}
    answer = client.infer(model_name="vector", inputs=[TENSOR], outputs=[output], raw_input_contents=[X.tobytes()])
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [3, 1])
    best = vector.predict({"x": X}).outputs["logits"].argmax(axis=1)
    assert [text.decode().split(":")[1] for text in decode_strings(answer.raw_output_contents[0])] == [
        str(index) for index in best
    ]


def test_repository_index_tells_why_a_model_is_not_served(client: ReflectionClient) -> None:
    index = {m.name: m for m in client.call(SERVICE, "RepositoryIndex").models}
    assert {name: m.state for name, m in index.items()} == {
        "text": "READY", "sequence": "READY", "vector": "READY", "broken": "UNAVAILABLE",
    }  # fmt: skip
    assert "the file was changed or cut short" in index["broken"].reason
    assert "broken" not in {m.name for m in client.call(SERVICE, "RepositoryIndex", ready=True).models}


def _logits(answer: Any) -> np.ndarray:
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def test_raw_contents(client: ReflectionClient, vector: Model) -> None:
    answer = client.infer(model_name="vector", id="mine", inputs=[TENSOR], raw_input_contents=[X.tobytes()])
    assert (answer.model_name, answer.model_version, answer.id) == ("vector", "1", "mine")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("logits", "FP32", [3, 3])]
    expected = vector.predict({"x": X})
    assert np.array_equal(_logits(answer), expected.outputs["logits"])  # alone in its batch: the same computation
    assert answer.parameters["density"].double_param == pytest.approx(expected.sparsity.density)
    assert answer.parameters["flops_executed"].int64_param == expected.sparsity.flops_executed


def test_typed_contents_give_the_same(client: ReflectionClient, vector: Model) -> None:
    tensor = TENSOR | {"contents": {"fp32_contents": X.ravel().tolist()}}
    answer = client.infer(model_name="vector", model_version="1", inputs=[tensor])
    assert np.array_equal(_logits(answer), vector.predict({"x": X}).outputs["logits"])


@pytest.mark.parametrize("value", [{"double_param": 0.25}, {"string_param": "0.25"}])
def test_a_budget_as_a_parameter(client: ReflectionClient, vector: Model, value: dict[str, Any]) -> None:
    answer = client.infer(
        model_name="vector", parameters={"budget": value}, inputs=[TENSOR], raw_input_contents=[X.tobytes()]
    )
    assert np.array_equal(_logits(answer), vector.predict({"x": X}, budget=0.25).outputs["logits"])


@pytest.mark.parametrize("raw", [True, False])
def test_text_as_bytes(client: ReflectionClient, repository: Any, raw: bool) -> None:
    text = b"few neurons work"
    tensor: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [1]}
    contents = {"raw_input_contents": [len(text).to_bytes(4, "little") + text]} if raw else {}
    if not raw:
        tensor["contents"] = {"bytes_contents": [text]}
    answer = client.infer(model_name="text", inputs=[tensor], outputs=[{"name": "logits"}], **contents)
    expected = Model.load(repository / "text").predict(text.decode()).outputs["logits"]
    assert np.array_equal(_logits(answer), expected)


def test_only_the_outputs_that_are_asked_for(client: ReflectionClient) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"lazy"]}}
    answer = client.infer(model_name="text", inputs=[tensor], outputs=[{"name": "hidden"}, {"name": "logits"}])
    assert [output.name for output in answer.outputs] == ["hidden", "logits"]
    assert len(answer.raw_output_contents) == 2


def test_the_http_port(server: ServerProcess) -> None:
    assert server.get("/healthz") == "live\n"
    assert server.get("/readyz") == "ready\nnot served: broken\n"
    page = server.get("/")
    assert "vector" in page
    assert "not served" in page
