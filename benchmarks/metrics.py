"""What recording metrics costs a server: microseconds a request, and as a share of its processor time a request.

`python -m benchmarks.metrics [--model mlp-sparse] [--seconds 5]` starts a server of its own, keeps requests under way
in a closed loop, and reads from `/metrics` how large its batches were and what processor time it took (of all its
threads; the load comes from other processes). Then batches of that size are recorded here, with everything that goes
with them (the request's code and duration, its wait, the batch's sums, rows by density, the time estimated), without a
server around them. The quotient depends less on how busy the machine is than throughput does. What a scrape costs is
told, too: it holds up requests for so long. The last column makes the increments that there were before, without rows
by density and estimates, in prometheus_client's own counters and histograms, one by one.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from benchmarks.harness import LEAST_RUNS, machine
from benchmarks.serve.models import example, make
from lazyneuron.engine.model import BatchResult, Model
from lazyneuron.engine.timing import time_in_turns
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.scrape import Snapshot, metrics_url, scrape
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.series import REQUESTS, SECONDS, TOKENS
from lazyneuron.server.tensors import encode
from tests.support.server import ServerProcess, serving

PREDICT = "/lazyneuron.v1.PredictionService/Predict"
REPEATS = 1024
"""Batches that are recorded in one timing: as many as gather at most before they are worked off."""


@dataclass(frozen=True)
class Load:
    """What a server did under a load.

    Attributes
    ----------
    rate
        Requests a second.
    cpu
        Its processor seconds a request.
    together
        Requests in a batch, the mean.
    """

    rate: float
    cpu: float
    together: float


def main() -> None:
    command()


@click.command()
@click.option("--model", "names", multiple=True, default=("mlp-sparse", "encoder-sparse"), show_default=True)
@click.option("--concurrency", "levels", type=click.IntRange(1), multiple=True, default=(1, 16, 64), show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="For each load, and for each set of timings.")
def command(names: tuple[str, ...], levels: tuple[int, ...], seconds: float) -> None:
    print(machine(1))
    header = (
        f"{'model':<16}{'under way':>10}{'batch':>7}{'requests/s':>12}{'CPU µs':>8}{'recording µs':>14}{'share':>8}"
    )
    print(header + f"{'prometheus_client µs':>22}")
    with tempfile.TemporaryDirectory() as folder:
        repository = make(Path(folder))
        with serving(repository, Path(folder) / "log") as server:
            for name in names:
                for level in levels:
                    load = driven(server, name, level, seconds)
                    model = Model.load(repository / name, threads=1)
                    result = batch_of(model, name, max(1, round(load.together)))
                    times = recording(model, result, seconds / 2)
                    ours, theirs = (times[kind] for kind in ("ours", "prometheus_client"))
                    print(
                        f"{name:<16}{level:>10}{load.together:>7.1f}{load.rate:>12,.0f}{1e6 * load.cpu:>8.0f}"
                        f"{1e6 * ours:>14.2f}{ours / load.cpu:>8.2%}{1e6 * theirs:>22.2f}"
                    )
            print(f"a scrape of {len(names)} models under load: {1e3 * scrape_seconds(repository, names):.2f} ms")


def driven(server: ServerProcess, name: str, level: int, seconds: float) -> Load:
    """Load a server, and read from its metrics what it did."""
    from benchmarks.serve.driving import Target, closed_loop

    messages = []
    for seed in range(16):
        inputs = example(name.removesuffix("-sparse"), seed)
        tensors = [
            pb.Tensor(name=key, datatype=kind, shape=shape, data=data)
            for key, (kind, shape, data) in ((key, encode(array)) for key, array in inputs.items())
        ]
        request = pb.PredictRequest(model_name=name, inputs=pb.NamedTensors(tensors=tensors), omit_outputs=True)
        messages.append(request.SerializeToString())
    target, url = Target(server.grpc, messages, method=PREDICT), metrics_url(server.http)
    closed_loop(target, level, min(1.0, seconds))  # the first times
    before = scrape(url)
    seen = closed_loop(target, level, seconds)
    after = scrape(url)

    def added(metric: str, **labels: str) -> float:
        def total(snapshot: Snapshot) -> float:
            return sum(value for _, value in snapshot.of(metric, **labels))

        return total(after) - total(before)

    requests = added("requests_total", model=name)
    together = added("batch_requests_sum", model=name) / added("batch_requests_count", model=name)
    return Load(seen.rate, added("process_cpu_seconds_total") / requests, together)


def batch_of(model: Model, name: str, size: int) -> BatchResult:
    """Run a batch of so many requests."""
    return model.run([model.request(example(name.removesuffix("-sparse"), seed)) for seed in range(size)])


def recording(model: Model, result: BatchResult, seconds: float) -> Mapping[str, float]:
    """Return what it takes to record a request, as a part of such batches, in seconds."""
    metrics = Metrics()
    recorder = metrics.model(model.manifest, lambda: 0)
    count = len(result.predictions)
    waits = [0.001] * count
    name, version = model.name, str(model.version)

    def ours() -> None:
        for _ in range(REPEATS):
            recorder.batch(result, waits)
            for wait in waits:
                metrics.answered(name, version, "OK", wait)

    theirs = client_recorder(model, result, waits)
    times = time_in_turns({"ours": ours, "prometheus_client": theirs}, seconds=seconds / 2, least=LEAST_RUNS)
    return {kind: min(each) / REPEATS / count for kind, each in times.items()}


def client_recorder(model: Model, result: BatchResult, waits: list[float]) -> Callable[[], None]:
    """Return a function that makes the increments of so many batches in prometheus_client's own metrics.

    Those of the existing counters and histograms alone: neither rows by density nor estimates are among them.
    """
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry, labels = CollectorRegistry(), ("model", "version")
    which = (model.name, str(model.version))

    def counter(name: str, *more: str) -> Counter:
        return Counter(name, "-", (*labels, *more), registry=registry)

    def histogram(name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, "-", labels, buckets=buckets, registry=registry).labels(*which)

    requests = counter("requests", "code")
    durations = Histogram("durations", "-", labels, buckets=SECONDS, registry=registry)
    queue, inference = histogram("queue", SECONDS), histogram("inference", SECONDS)
    sizes, lengths = histogram("sizes", REQUESTS), histogram("lengths", TOKENS)
    tokens = counter("tokens", "kind")
    flops = [counter(name).labels(*which) for name in ("dense", "executed")]
    neurons = [counter(name, "block") for name in ("neurons", "active", "candidates")]
    blocks = [[one.labels(*which, block.name) for one in neurons] for block in model.manifest.blocks]
    real, padding = (tokens.labels(*which, kind) for kind in ("real", "padding"))

    def record() -> None:
        for _ in range(REPEATS):
            for wait in waits:
                queue.observe(wait)
            inference.observe(result.seconds)
            sizes.observe(len(waits))
            lengths.observe(result.tokens_real + result.tokens_padding)
            real.inc(result.tokens_real)
            padding.inc(result.tokens_padding)
            flops[0].inc(result.sparsity.flops_dense)
            flops[1].inc(result.sparsity.flops_executed)
            for counters, counts in zip(blocks, result.sparsity.blocks, strict=True):
                counters[0].inc(counts.neurons)
                counters[1].inc(counts.active)
                counters[2].inc(counts.candidates)
            for wait in waits:
                requests.labels(*which, "OK").inc()
                durations.labels(*which).observe(wait)

    return record


def scrape_seconds(repository: Path, names: tuple[str, ...]) -> float:
    """Return how long one scrape takes with as much put off as may be."""
    metrics, work = Metrics(), []
    for name in names:
        model = Model.load(repository / name, threads=1)
        work.append((metrics.model(model.manifest, lambda: 0), batch_of(model, name, 8)))
    times = []
    for _ in range(20):
        for recorder, result in work:
            for _ in range(100):
                recorder.batch(result, [0.001] * 8)
        started = time.thread_time()
        generate_latest(metrics.registry)
        times.append(time.thread_time() - started)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
