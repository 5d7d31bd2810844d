"""grpc.health.v1, by its own client."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def check(channel: grpc.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


@pytest.mark.parametrize(
    "service", ["", "lazyneuron.v1.PredictionService", "inference.GRPCInferenceService", "text", "vector"]
)
def test_serving(channel: grpc.Channel, service: str) -> None:
    assert check(channel, service) == SERVING


def test_a_broken_model_is_not_serving(channel: grpc.Channel) -> None:
    assert check(channel, "broken") == NOT_SERVING


def test_an_unknown_service(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        check(channel, "nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
