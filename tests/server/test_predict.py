"""`PredictionService/Predict` over a socket: right answers, right counts, under concurrency."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from lazyneuron.engine.model import Model
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.tensors import decode, encode
from tests.support.artifacts import VOCABULARY
from tests.support.server import ServerProcess, serving

THREADS = 16
CALLS = 1000

# ONNX Runtime's own matrix product and sums take another order for another batch shape (one row is a special case), so
# bits need not agree between a batch and a request alone; what padding or a neighbour would change is far larger. Some
# hundred float32 additions of numbers of the size of the largest output: 1e-5 of it is a hundred epsilons.
TOLERANCE = 1e-5


def request_for(name: str, inputs: dict[str, np.ndarray] | str, **fields: object) -> pb.PredictRequest:
    request = pb.PredictRequest(model_name=name, **fields)  # type: ignore[arg-type]
    if isinstance(inputs, str):
        request.text = inputs
        return request
    for key, array in inputs.items():
        datatype, shape, data = encode(array)
        request.inputs.tensors.add(name=key, datatype=datatype, shape=shape, data=data)
    return request


def outputs_of(response: pb.PredictResponse) -> dict[str, np.ndarray]:
    return {t.name: decode(t.name, t.datatype, t.shape, t.data) for t in response.outputs}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, array in expected.items():
        scale = float(np.abs(array).max())
        np.testing.assert_allclose(got[name], array, rtol=0, atol=TOLERANCE * scale, err_msg=name)


def random_request(random: np.random.Generator) -> tuple[str, dict[str, np.ndarray] | str, float]:
    """One of three models, one to three examples, 1 to 24 positions, with or without a mask, some budgets."""
    kind = random.choice(["text", "sequence", "vector"])
    examples, length = int(random.integers(1, 4)), int(random.integers(1, 25))
    budget = float(random.choice([1.0, 1.0, 0.5]))
    if kind == "text":
        return "text", " ".join(random.choice(VOCABULARY[2:], length)), budget
    if kind == "vector":
        return "vector", {"x": random.normal(size=(examples, 16)).astype(np.float32)}, budget
    inputs: dict[str, np.ndarray] = {"x": random.normal(size=(examples, length, 16)).astype(np.float32)}
    if random.random() < 0.5:
        real = random.integers(1, length + 1, size=(examples, 1))
        inputs["attention_mask"] = (np.arange(length) < real).astype(np.int64)
    return "sequence", inputs, budget


@pytest.fixture
def fresh(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose counters begin at zero."""
    with serving(repository, tmp_path / "server.log") as server:
        yield server
        assert server.terminate() == 0


def test_a_thousand_calls_from_sixteen_threads(fresh: ServerProcess, repository: Path) -> None:
    random = np.random.default_rng(20)
    cases = [random_request(random) for _ in range(CALLS)]
    channels = [grpc.insecure_channel(fresh.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
                for _ in range(THREADS)]  # fmt: skip
    stubs = [PredictionServiceStub(channel) for channel in channels]

    def call(index: int) -> pb.PredictResponse:
        name, inputs, budget = cases[index]
        return stubs[index % THREADS].Predict(request_for(name, inputs, budget=budget), timeout=60)

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(call, range(CALLS)))
    for channel in channels:
        channel.close()

    models = {name: Model.load(repository / name) for name in ("text", "sequence", "vector")}
    for (name, inputs, budget), answer in zip(cases, answers, strict=True):
        assert_same(outputs_of(answer), dict(models[name].predict(inputs, budget).outputs))
    assert max(answer.timing.batch_requests for answer in answers) > 1, "nothing was batched"
    _check_counters(fresh, answers)


def _check_counters(server: ServerProcess, answers: list[pb.PredictResponse]) -> None:
    """What Prometheus reads is the sum of what the answers said, to the last neuron."""
    assert server.total("lazyneuron_requests_total", code="OK") == len(answers)
    for model in ("text", "sequence", "vector"):
        of_model = [answer for answer in answers if answer.model_name == model]
        assert server.total("lazyneuron_requests_total", model=model, version="1") == len(of_model)
        for metric, field in [
            ("mlp_neurons_active_total", "active"),
            ("mlp_neurons_total", "neurons"),
            ("mlp_neurons_candidate_total", "candidates"),
        ]:
            for index, block in enumerate(("block_0", "block_1")):
                said = sum(getattr(answer.sparsity.blocks[index], field) for answer in of_model)
                assert server.total(f"lazyneuron_{metric}", model=model, block=block) == said
        for field in ("flops_dense", "flops_executed"):
            said = sum(getattr(answer.sparsity, field) for answer in of_model)
            assert server.total(f"lazyneuron_mlp_{field}_total", model=model) == said
        rows = sum(answer.sparsity.blocks[0].rows for answer in of_model)
        assert server.total("lazyneuron_tokens_total", model=model, kind="real") == rows
    assert server.total("lazyneuron_queue_requests") == 0


def test_an_answer_says_what_it_cost(channel: grpc.Channel) -> None:
    response = PredictionServiceStub(channel).Predict(request_for("text", "lazy neurons sleep", model_version=1))
    assert (response.model_name, response.model_version) == ("text", 1)
    sparsity = response.sparsity
    assert [block.name for block in sparsity.blocks] == ["block_0", "block_1"]
    assert [block.neurons for block in sparsity.blocks] == [3 * 64, 3 * 64]
    active = sum(block.active for block in sparsity.blocks)
    assert 0 < active < 2 * 3 * 64
    assert sparsity.density == pytest.approx(active / (2 * 3 * 64))
    assert sparsity.flops_saved == sparsity.flops_dense - sparsity.flops_executed > 0
    assert response.timing.inference_seconds > 0
    assert response.timing.batch_requests == response.timing.batch_size == 1


def test_the_default_budget_is_one(channel: grpc.Channel) -> None:
    stub = PredictionServiceStub(channel)
    without = stub.Predict(request_for("text", "few work and save"))
    assert outputs_of(without)["logits"].tolist() == (
        outputs_of(stub.Predict(request_for("text", "few work and save", budget=1.0)))["logits"].tolist()
    )
