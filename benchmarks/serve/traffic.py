"""Mixed requests, each with its own expected answer; and one process that sends them. For `correctness.py`, `soak.py`.

Models, lengths, batch sizes, budgets and both protocols are mixed; some requests are cancelled or given too little
time, and some are wrong and must be refused. Any two expected answers of a shape differ by more than the tolerance, so
an answer that is another request's is noticed.

python traffic.py ADDRESS CASES.npz REQUESTS CONCURRENCY SEED    prints its counts as JSON; REQUESTS 0: until SIGTERM
"""

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import models
import numpy as np

from lazyneuron.engine.model import Model
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.tensors import decode, encode

__all__ = ["BUDGETS", "REFUSED", "Case", "make_cases", "read_cases", "write_cases"]

Array = np.ndarray[Any, Any]
PREDICT = "/lazyneuron.v1.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
BUDGETS = (1.0, 0.5, 0.03, 0.02)
"""0.02 of 64 neurons are two, of the three or so that are active: what is asked for shows in the answer."""
ABSOLUTE, RELATIVE = 1e-4, 1e-4
"""Attention in a batch is summed in another order than alone; an answer is right within this."""
REFUSED = {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
_SHARES = {"right": 0.86, "hurried": 0.05, "cancelled": 0.05, "wrong": 0.03, "unknown": 0.01}
_BATCHES = (1, 1, 1, 1, 2, 3, 5)


@dataclass(frozen=True)
class Case:
    """A request and its answer."""

    model: str
    inputs: dict[str, Array]
    budget: float
    expected: Array

    def is_answered_by(self, got: Array) -> bool:
        """Return whether an answer is this request's."""
        return got.shape == self.expected.shape and np.allclose(got, self.expected, rtol=RELATIVE, atol=ABSOLUTE)


def make_cases(repository: Path, count: int, seed: int = 0) -> list[Case]:
    """Draw requests of all models of the small kinds and run each by itself."""
    rng, choose = np.random.default_rng(seed), random.Random(seed)
    loaded = {path.name: Model.load(path, threads=1) for path in sorted(repository.iterdir())}
    by_shape: dict[tuple[int, ...], list[Case]] = {}
    for _ in range(count):
        name, model = choose.choice(list(loaded.items()))
        kind = models.SMALL[name.removesuffix("-sparse")]
        inputs = models.draw(kind, rng, choose.choice(_BATCHES), choose.randint(1, kind.length or 1))
        budget = choose.choice(BUDGETS) if name.endswith("-sparse") else 1.0
        case = Case(name, inputs, budget, model.predict(inputs, budget).outputs["y"])
        alike = by_shape.setdefault(case.expected.shape, [])
        if not any(other.is_answered_by(case.expected) for other in alike):  # one token twice has one answer
            alike.append(case)
    return [case for alike in by_shape.values() for case in alike]


def write_cases(path: Path, cases: list[Case]) -> None:
    """Write them for other processes."""
    arrays: dict[str, Array] = {}
    for number, case in enumerate(cases):
        arrays |= {f"{number}/in/{key}": value for key, value in case.inputs.items()}
        arrays[f"{number}/out"] = case.expected
    arrays["about"] = np.array(json.dumps([[case.model, case.budget, sorted(case.inputs)] for case in cases]))
    np.savez(path, **arrays)


def read_cases(path: Path) -> list[Case]:
    """Read what `write_cases` wrote."""
    with np.load(path) as file:
        return [
            Case(name, {key: file[f"{number}/in/{key}"] for key in keys}, budget, file[f"{number}/out"])
            for number, (name, budget, keys) in enumerate(json.loads(str(file["about"])))
        ]


class Traffic:
    """Sends requests at random and counts what becomes of them."""

    def __init__(self, address: str, cases: list[Case], seed: int) -> None:
        self.cases = cases
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.address = address
        self.stopping = False

    async def run(self, requests: int, concurrency: int) -> None:
        """Send so many; 0: until `stopping`."""
        self.left = requests or sys.maxsize
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            self.predict = channel.unary_unary(
                PREDICT, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString
            )
            self.infer = channel.unary_unary(
                INFER, oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
            )
            await asyncio.gather(*(self.caller() for _ in range(concurrency)))

    async def caller(self) -> None:
        """Send one after the other."""
        while self.left > 0 and not self.stopping:
            self.left -= 1
            (fate,) = self.random.choices(list(_SHARES), list(_SHARES.values()))
            await self.one(fate, self.random.choice(self.cases))

    async def one(self, fate: str, case: Case) -> None:
        """Send one request and count how it ended."""
        self.counts["sent"] += 1
        if self.random.random() < 0.5:
            request: Any = _predict_request(case)
            send, read = self.predict, _read_predict
        else:
            request, send, read = _infer_request(case), self.infer, _read_infer
        if fate == "wrong":
            _spoil(request, self.random)
        elif fate == "unknown":
            request.model_name = "none"
        call = send(request, timeout=self.random.uniform(0.0005, 0.02) if fate == "hurried" else 60)
        if fate == "cancelled":
            await asyncio.sleep(self.random.uniform(0, 0.01))
            call.cancel()
        try:
            got = read(await call)
        except asyncio.CancelledError:
            self.counts["CANCELLED"] += 1
        except grpc.aio.AioRpcError as error:
            self.failed(fate, case, error)
        else:
            self.counts["OK"] += 1
            if fate in {"wrong", "unknown"} or not case.is_answered_by(got):
                self.wrong.append(f"{case.model} {got.shape} ({fate}): not the answer of this request")

    def failed(self, fate: str, case: Case, error: grpc.aio.AioRpcError) -> None:
        """Count an error, and hold that it may be."""
        name = error.code().name
        self.counts[name] += 1
        allowed = {"wrong": {"INVALID_ARGUMENT"}, "unknown": {"NOT_FOUND"}, "hurried": {"DEADLINE_EXCEEDED"}}
        if name not in allowed.get(fate, set()) | REFUSED:
            self.wrong.append(f"{case.model} ({fate}): {name}: {error.details()}")


def _predict_request(case: Case) -> pb.PredictRequest:
    request = pb.PredictRequest(model_name=case.model, budget=case.budget)
    for key, value in case.inputs.items():
        datatype, shape, data = encode(value)
        request.inputs.tensors.add(name=key, datatype=datatype, shape=shape, data=data)
    return request


def _infer_request(case: Case) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=case.model)
    request.parameters["budget"].double_param = case.budget
    for key, value in case.inputs.items():
        datatype, shape, data = encode(value)
        request.inputs.add(name=key, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    return request


def _spoil(request: Any, choose: random.Random) -> None:  # noqa: ANN401
    """Make a request that must be refused."""
    tensor = request.inputs[0] if isinstance(request, oip.ModelInferRequest) else request.inputs.tensors[0]
    match choose.randrange(4):
        case 0:
            tensor.shape[-1] += 1
        case 1:
            tensor.datatype = "FP64"
        case 2:
            tensor.name = "nothing"
        case _:
            if isinstance(request, oip.ModelInferRequest):
                request.parameters["budget"].double_param = -1
            else:
                request.budget = 7


def _read_predict(response: pb.PredictResponse) -> Array:
    first = response.outputs[0]
    return decode(first.name, first.datatype, first.shape, first.data)


def _read_infer(response: oip.ModelInferResponse) -> Array:
    first = response.outputs[0]
    return decode(first.name, first.datatype, first.shape, response.raw_output_contents[0])


def main(address: str, cases: Path, requests: int, concurrency: int, seed: int) -> None:
    traffic = Traffic(address, read_cases(cases), seed)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: setattr(traffic, "stopping", True))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await traffic.run(requests, concurrency)

    asyncio.run(run())
    json.dump({"counts": traffic.counts, "wrong": traffic.wrong[:20], "wrong_count": len(traffic.wrong)}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
