"""A closed-loop load on a server of the small models, for a first look at its speed.

`python -m tests.support.load CONCURRENCY SECONDS` starts a server of its own, checks an answer, and prints what the
engine does when called directly, what a bare gRPC echo does, and what the server does, on the same requests.
The clients' own cost is in every figure but the first. `benchmarks/` is where measurements that are kept belong.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np

from lazyneuron.engine.model import Model
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.tensors import decode, encode
from tests.support.artifacts import write_sequence_encoder, write_vector_model
from tests.support.server import serving

PREDICT = "/lazyneuron.v1.PredictionService/Predict"
INPUTS = {
    "vector": np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32),
    "sequence": np.random.default_rng(0).normal(size=(1, 32, 16)).astype(np.float32),
}


def message(name: str) -> bytes:
    datatype, shape, data = encode(INPUTS[name])
    tensor = pb.Tensor(name="x", datatype=datatype, shape=shape, data=data)
    return pb.PredictRequest(model_name=name, inputs=pb.NamedTensors(tensors=[tensor])).SerializeToString()


async def drive(address: str, request: bytes, concurrency: int, seconds: float) -> list[float]:
    """Return each call's seconds."""
    taken: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(PREDICT)
        await call(request)
        ends = time.perf_counter() + seconds

        async def one() -> None:
            while (begun := time.perf_counter()) < ends:
                await call(request)
                taken.append(time.perf_counter() - begun)

        await asyncio.gather(*(one() for _ in range(concurrency)))
    return sorted(taken)


def report(what: str, taken: list[float], seconds: float) -> None:
    p50, p99 = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
    line = f"{what:32} {len(taken) / seconds:7.0f} requests/s   p50 {p50 * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms"
    sys.stdout.write(line + "\n")


async def echo(concurrency: int, seconds: float) -> list[float]:
    """The same load on a handler that does nothing, in this very process."""

    async def handle(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(handle)
    service = grpc.method_handlers_generic_handler("lazyneuron.v1.PredictionService", {"Predict": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    taken = await drive(f"127.0.0.1:{port}", message("vector"), concurrency, seconds)
    await server.stop(0)
    return taken


def direct(model: Model, name: str, seconds: float) -> list[float]:
    taken = []
    ends = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < ends:
        model.predict({"x": INPUTS[name]})
        taken.append(time.perf_counter() - begun)
    return sorted(taken)


async def check(address: str, models: Path) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        for name in INPUTS:
            answer = pb.PredictResponse.FromString(await channel.unary_unary(PREDICT)(message(name)))
            output = answer.outputs[0]
            expected = Model.load(models / name).predict({"x": INPUTS[name]}).outputs[output.name]
            assert np.array_equal(decode("", output.datatype, output.shape, output.data), expected)


def main(concurrency: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_vector_model(models)
        write_sequence_encoder(models)
        for name in INPUTS:
            report(f"{name}, engine called directly", direct(Model.load(models / name), name, seconds), seconds)
        report(f"echo in one process, {concurrency} at a time", asyncio.run(echo(concurrency, seconds)), seconds)
        with serving(models, Path(folder) / "log") as server:
            asyncio.run(check(server.grpc, models))
            for name in INPUTS:
                taken = asyncio.run(drive(server.grpc, message(name), concurrency, seconds))
                report(f"{name}, served, {concurrency} at a time", taken, seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
