"""A real server under changing traffic, watched by a real Prometheus: calm, shifted, overloaded, gone.

`python -m tests.support.watched docs` draws the dashboards' pictures from it.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from onnx import TensorProto

import lazyneuron
from deploy.monitoring.__main__ import documents
from deploy.monitoring.asking import Api
from deploy.monitoring.drawing import Span, draw
from deploy.monitoring.records import Clock, Objectives
from deploy.monitoring.rules import rule_file
from lazyneuron.engine.cost_files import COSTS_VARIABLE
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.tensors import encode
from tests.exporters.graphs import node, save
from tests.support.prometheus import watching
from tests.support.server import serving, until

D, F, BLOCKS = 96, 768, 4
SHIFT = 3.0
"""How much larger the rows of shifted traffic are: more of the neurons then pass their biases."""
PREDICT = "/lazyneuron.v1.PredictionService/Predict"
OBJECTIVES = Objectives(drift_rows=100)
"""Where minutes are so short, fewer rows come in one."""
_NEXT = {"calm": "shifted", "shifted": "overload", "overload": "gone", "gone": "end"}
PATIENCE = 90.0
"""Seconds in which an alert has to change: many times what it takes."""

SETTINGS = """
[batching]
max_tokens = 1024
[queue]
max_requests = 8
max_tokens = 4096
[clients]
queue_share = 1.0
[budget]
lowest = 0.5
"""
"""A short queue, which one client may fill: all of them come from one address here."""


@dataclass
class Watched:
    """What was run, and when.

    Attributes
    ----------
    api
        Prometheus, which has it all.
    instance
        The server's, as Prometheus names it.
    scrape, clock
        Seconds between scrapes; how long the rules' minutes were.
    started
        Unix seconds at which each phase began: `empty` (no target yet), `calm`, `shifted`, `overload`, `gone`, `end`.
    flowing
        From when on each phase's requests were answered.
    """

    api: Api
    instance: str
    scrape: float
    clock: Clock
    started: dict[str, float] = field(default_factory=dict)
    flowing: dict[str, float] = field(default_factory=dict)

    def window(self, duration: str) -> float:
        """Return how many seconds a duration of the rules was."""
        return float(self.clock(duration).removesuffix("ms")) / 1000

    def variables(self, model: str = ".*") -> dict[str, str]:
        """Return values of the dashboards' variables."""
        interval = f"{4 * self.scrape:.0f}s"
        chosen = {"model": model, "version": ".*", "instance": ".*", "price": "0.20"}
        return {**chosen, "__rate_interval": interval}

    def firing(self, alert: str) -> list[float]:
        """Return the times at which an alert fired, for any model."""
        expression = f'max(ALERTS{{alertname="{alert}", alertstate="firing"}})'
        found = self.api.over(expression, self.started["empty"], self.started["end"], self.scrape / 2)
        return [when for series in found for when, _ in series.points]


def export_model(folder: Path) -> Path:
    """Export a small dense encoder, certified, with calibration; return the repository."""
    rng = np.random.default_rng(0)
    constants, nodes, x = {"last": np.array([2], np.int64)}, [], "x"
    for block in range(BLOCKS):
        constants[f"up{block}"] = (rng.standard_normal((D, F)) * D**-0.5).astype(np.float32)
        # Deeper blocks are sparser.
        constants[f"up_bias{block}"] = np.full(F, -1.3 - 0.2 * block, np.float32)
        constants[f"down{block}"] = (rng.standard_normal((F, D)) * 0.02).astype(np.float32)
        constants[f"down_bias{block}"] = np.zeros(D, np.float32)
        nodes += [
            node("MatMul", f"{x} up{block}", f"up_product{block}", name=f"layers.{block}/up"),
            node("Add", f"up_product{block} up_bias{block}", f"pre{block}"),
            node("Relu", f"pre{block}", f"active{block}"),
            node("MatMul", f"active{block} down{block}", f"down_product{block}"),
            node("Add", f"down_product{block} down_bias{block}", f"mlp{block}"),
            node("Add", f"mlp{block} {x}", f"x{block + 1}"),
        ]
        x = f"x{block + 1}"
    nodes.append(node("Cast", "attention_mask", "real", to=TensorProto.FLOAT))
    nodes += [node("Unsqueeze", "real last", "real3"), node("Mul", f"{x} real3", "y")]
    rows = ["batch", "sequence"]
    inputs = {"x": (TensorProto.FLOAT, [*rows, D]), "attention_mask": (TensorProto.INT64, rows)}
    dense = save(folder / "dense.onnx", nodes, constants, inputs=inputs, outputs={"y": (TensorProto.FLOAT, [*rows, D])})
    calibration = folder / "calibration.npz"
    np.savez(calibration, x=_rows(rng, 100, 20), attention_mask=np.ones((100, 20), np.int64))
    lazyneuron.export(dense, folder / "models" / "encoder", calibration=calibration, mode="certified")
    return folder / "models"


def _rows(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    return rng.standard_normal((batch, length, D)).astype(np.float32)


class Traffic:
    """Clients of a server whose requests can be changed while they go on.

    Parameters
    ----------
    address
        The server's, `HOST:PORT`.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended, self._answered = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self, clients: int, batch: int, lengths: tuple[int, int], *, scale: float = 1.0, pause: float) -> None:
        """Send requests, by so many clients, each one after the other; return when some were answered."""
        self._ended.clear()
        self._answered.clear()
        for seed in range(clients):
            arguments = (seed, batch, lengths, scale, pause)
            thread = threading.Thread(target=self._send, args=arguments, daemon=True)
            self._threads.append(thread)
            thread.start()
        assert self._answered.wait(60), "no request is answered"

    def end(self) -> None:
        """Send no more, and wait until all is answered."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client's request is not answered"
        self._threads.clear()

    def _send(self, seed: int, batch: int, lengths: tuple[int, int], scale: float, pause: float) -> None:
        rng = np.random.default_rng(seed)
        requests = []
        for _ in range(16):
            length = int(rng.integers(*lengths))
            inputs = {"x": _rows(rng, batch, length) * np.float32(scale)}
            inputs["attention_mask"] = np.ones((batch, length), np.int64)
            encoded = [(name, *encode(array)) for name, array in inputs.items()]
            tensors = [pb.Tensor(name=n, datatype=kind, shape=shape, data=data) for n, kind, shape, data in encoded]
            message = pb.PredictRequest(model_name="encoder", inputs=pb.NamedTensors(tensors=tensors))
            requests.append(message.SerializeToString())
        # A connection of its own for each client, not one that all share.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            call = channel.unary_unary(PREDICT)
            while not self._ended.is_set():
                try:
                    call(requests[int(rng.integers(len(requests)))], timeout=30)
                    self._answered.set()
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                        raise
                self._ended.wait(pause * float(rng.uniform(0.5, 1.5)))


@contextmanager
def watched(folder: Path, *, scrape: float = 0.5, scale: float = 0.01, seconds: float = 10.0) -> Iterator[Watched]:
    """Run all phases, then let it be looked at while Prometheus still runs.

    Parameters
    ----------
    folder
        For the model, the logs and Prometheus's data.
    scrape
        Seconds between two looks of Prometheus.
    scale
        How long the rules' minutes are, as a share of a minute.
    seconds
        The least that a phase lasts; it also lasts until its alerts fire.
    """
    repository = export_model(folder)
    broken = repository / "encoder" / "2"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    clock = Clock(scale)
    every = f"{round(scrape * 1000)}ms"
    # Those of this repository, whatever a machine or a test has instead: the estimates are of a real one.
    costs = {COSTS_VARIABLE: str(Path(lazyneuron.__file__).parent / "engine" / "costs" / "avx2.json")}
    with serving(repository, folder / "server.log", SETTINGS, environment=costs) as server:
        traffic = Traffic(server.grpc)
        with watching(server.http, folder / "prometheus", rule_file(OBJECTIVES, clock), scrape=every) as api:
            run = Watched(api, server.http, scrape, clock, {"empty": time.time()})
            # Prometheus takes some seconds until it looks for targets at all.
            until(lambda: bool(api.now("up")), "Prometheus reads the server", PATIENCE)

            def phase(name: str, *alerts: str, seconds: float = seconds) -> None:
                begun = run.flowing[name] = time.time()
                for alert in alerts:
                    until(partial(_fires, api, alert), f"{alert} fires", PATIENCE)
                # Some scrapes more, so that what came last is seen over a window.
                time.sleep(max(0.0, begun + seconds - time.time(), 4 * scrape))
                run.started[_NEXT[name]] = time.time()
                traffic.end()

            try:
                run.started["calm"] = time.time()
                traffic.begin(2, 4, (8, 33), pause=0.03)
                phase("calm", "LazyneuronVersionFailedToLoad")
                traffic.begin(2, 4, (8, 33), pause=0.03, scale=SHIFT)
                phase("shifted", "LazyneuronDensityDrift")
                traffic.begin(32, 8, (32, 65), pause=0.002)
                phase("overload", "LazyneuronQueueSaturated", "LazyneuronErrorBudgetBurn")
            finally:
                traffic.end()
            assert server.terminate() == 0
            phase("gone", "LazyneuronTargetDown", seconds=0)
            yield run


def _fires(api: Api, alert: str) -> bool:
    return bool(api.now(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))


def main(folder: Path) -> None:
    """Draw the dashboards' pictures: of phases long enough to see something in."""
    with TemporaryDirectory() as scratch, watched(Path(scratch), scrape=1.0, scale=0.05, seconds=60.0) as run:
        for text in documents().values():
            if text.startswith("{"):
                document = json.loads(text)
                began = {name: when for name, when in run.started.items() if name not in ("empty", "end")}
                span = Span(run.started["calm"], run.started["end"], run.scrape, began)
                draw(document, run.api, span, run.variables(), folder / f"{document['uid']}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
