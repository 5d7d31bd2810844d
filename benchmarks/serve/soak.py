"""Hold a server under mixed traffic and faults, and look what it has lost, doubled, or kept.

While several processes send mixed requests (`traffic.py`), at random: clients are killed with -9 in the middle of their
calls; clients stop reading for a while; connections are opened on which nothing comes, or half a preface, or noise;
new versions of the models are loaded; the wall clock jumps by hours, both ways; and the disk of the log is full. At the
end the faults stop, and what is held is:

- no wrong answer, and nothing but OK, what was asked for (refusals of wrong requests) and refusals by load;
- every request of a client that lived is answered, once, and nothing waits in a queue;
- memory is flat: the last third's median is at most 10 % and 16 MiB above the middle third's;
- file descriptors are as many as at the start;
- SIGTERM ends it with status 0.

    python benchmarks/serve/soak.py [--seconds 600]
"""

import contextlib
import json
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import grpc
import models
import traffic
from correctness import scraped
from rich.console import Console

from lazyneuron.engine.artifact import MANIFEST_FILE
from lazyneuron.protocol import open_inference_pb2 as oip

METADATA = "/inference.GRPCInferenceService/ModelMetadata"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
_MIB = 2**20
_CALM_SECONDS = 60.0
_JUMPING = """
import mmap, runpy, struct, sys, time, types
import grpc._cython.cygrpc as core
with open(sys.argv.pop(1), "rb") as file:
    offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
real, real_ns = time.time, time.time_ns
assert core.time is time
core.time = types.SimpleNamespace(time=real)
time.time = lambda: real() + struct.unpack("d", offset)[0]
time.time_ns = lambda: real_ns() + int(1e9 * struct.unpack("d", offset)[0])
sys.argv[0] = "lazyneuron"
runpy.run_module("lazyneuron", run_name="__main__")
"""
"""`lazyneuron` with a wall clock that a file moves; time.monotonic stays, as where an operator sets the clock.

gRPC keeps the real one: its core reads the clock in C, where this does not reach, and compares it with Python's. Where
a clock is really set, both move."""


@dataclass
class Server:
    """The process under test."""

    repository: Path
    scratch: Path
    memory: list[float] = field(default_factory=list)
    watched: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Note its memory a few times a second, until `watched`."""

        def look() -> None:
            while not self.watched.wait(0.2) and self.process.poll() is None:
                self.memory.append(self.resident())

        self.memory.append(self.resident())
        threading.Thread(target=look, daemon=True).start()

    def __post_init__(self) -> None:
        self.clock = self.scratch / "clock"
        self.set_clock(0.0)
        config = self.scratch / "serve.toml"
        config.write_text("threads = 1\n")
        command = [sys.executable, "-c", _JUMPING, self.clock, "serve", self.repository, "--config", config]
        with Path("/dev/full").open("w") as full:  # every write to the log fails: no space left on device
            self.process = subprocess.Popen(
                [str(word) for word in (*command, "--grpc-port", "0", "--http-port", "0")],
                stdout=subprocess.PIPE,
                stderr=full,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("ready: gRPC on "):
            raise SystemExit("the server did not start")
        self.grpc, _, rest = line.removeprefix("ready: gRPC on ").partition(", ")
        self.http = rest.partition("http://")[2].strip().rstrip("/")

    def set_clock(self, offset: float) -> None:
        import struct

        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("d", offset))

    def resident(self) -> float:
        """Return its resident memory in MiB, without pages that it shares with files."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) / 1024

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())


@dataclass
class Clients:
    """The processes that send, and what those that lived have told."""

    server: Server
    cases: Path
    concurrency: int
    running: list["subprocess.Popen[str]"] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    started: int = 0

    def start(self) -> None:
        """Start one, and wait until it sends."""
        arguments = [self.server.grpc, self.cases, 0, self.concurrency, self.started]
        words = [sys.executable, str(Path(traffic.__file__)), *map(str, arguments)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        self.started += 1
        self.running.append(process)

    def finish(self, process: "subprocess.Popen[str]") -> None:
        """Let one stop by itself, and take what it has counted."""
        self.running.remove(process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        told = json.loads(out.splitlines()[-1])
        self.seen.update(told["counts"])
        self.wrong += told["wrong"]
        self.wrong_count += told["wrong_count"]

    def kill(self, process: "subprocess.Popen[str]") -> None:
        """Kill one in the middle of its calls."""
        self.running.remove(process)
        process.kill()
        process.communicate()


@dataclass
class Faults:
    """What is done to the server and its clients, one thing at a time."""

    server: Server
    clients: Clients
    models: list[str]
    random: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    held: list[socket.socket] = field(default_factory=list)
    deck: list[Callable[[], None]] = field(default_factory=list)

    def one(self) -> None:
        """Let the next one happen; all of them come, in an order drawn at random, before any comes again."""
        if not self.deck:
            self.deck = [self.kill, self.stop_reading, self.half_open, self.jump, self.finish]
            self.deck += [self.kill, self.reload, self.reload]  # twice as often
            self.random.shuffle(self.deck)
        kind = self.deck.pop()
        kind()
        self.happened[kind.__name__] += 1

    @property
    def complete(self) -> bool:
        """Whether every kind has happened."""
        return not self.deck and bool(self.happened)

    def kill(self) -> None:
        self.clients.kill(self.random.choice(self.clients.running))
        self.clients.start()

    def finish(self) -> None:
        self.clients.finish(self.random.choice(self.clients.running))
        self.clients.start()

    def stop_reading(self) -> None:
        """Freeze a client with its calls under way, so that nobody reads what the server answers."""
        client = self.random.choice(self.clients.running)
        client.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, 2.0))
        client.send_signal(signal.SIGCONT)

    def half_open(self) -> None:
        begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        noise = self.random.randbytes(200)
        # A HEADERS frame that promises more than ever comes.
        headers = begin + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x40\x00\x01\x00\x00\x00\x00\x01" + noise
        for content in (b"", begin[:11], begin, begin + noise, headers):
            self.connect(self.server.grpc, content)
        for content in (b"", b"GET /metr", b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nx", noise):
            self.connect(self.server.http, content)
        while len(self.held) > 60:
            self.held.pop(self.random.randrange(len(self.held))).close()

    def connect(self, address: str, content: bytes) -> None:
        host, _, port = address.rpartition(":")
        made = socket.create_connection((host, int(port)), timeout=10)
        made.sendall(content)
        self.held.append(made)

    def reload(self) -> None:
        """Put a further version of a model beside those there are, have it loaded, and remove the oldest."""
        name = self.random.choice(self.models)
        folder = self.server.repository / name
        versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        new = versions[-1] + 1
        hidden = folder / f".{new}"
        shutil.copytree(folder / str(versions[-1]), hidden)
        manifest = hidden / MANIFEST_FILE
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": new}))
        hidden.rename(folder / str(new))
        with grpc.insecure_channel(self.server.grpc) as channel:
            load = channel.unary_unary(LOAD)
            load(oip.RepositoryModelLoadRequest(model_name=name).SerializeToString(), timeout=120)
            ask = channel.unary_unary(METADATA, response_deserializer=oip.ModelMetadataResponse.FromString)
            described = ask(oip.ModelMetadataRequest(name=name).SerializeToString(), timeout=120)
        if str(new) not in described.versions:
            raise SystemExit(f"{name} version {new} was loaded, but the server has {list(described.versions)}")
        for version in versions[:-1]:
            shutil.rmtree(folder / str(version))

    def jump(self) -> None:
        self.server.set_clock(self.random.uniform(-86400, 86400))

    def end(self) -> None:
        for made in self.held:
            made.close()
        self.held.clear()
        for client in self.clients.running:
            client.send_signal(signal.SIGCONT)


def judge(server: Server, clients: Clients, descriptors: int) -> list[str]:
    """Return what is not as it has to be, after all clients have gone."""
    found = [*clients.wrong]
    if clients.seen["sent"] != sum(number for code, number in clients.seen.items() if code != "sent"):
        found.append("a request of a client that lived has neither an answer nor an error")
    calm = time.monotonic() + _CALM_SECONDS
    while time.monotonic() < calm and (server.descriptors() > descriptors or scraped(server.http)["waiting"]):
        time.sleep(0.2)
    if (now := server.descriptors()) > descriptors:
        found.append(f"{now} file descriptors are open; {descriptors} were at the start")
    counted = scraped(server.http)
    if counted["waiting"]:
        found.append(f"{counted['waiting']} requests still wait, and nobody waits for them")
    if counted["OK"] < clients.seen["OK"]:
        found.append(f"clients saw {clients.seen['OK']:,} answers, the server counted {counted['OK']:,}")
    if bad := {code: counted[code] for code in ("INTERNAL", "UNKNOWN") if counted[code]}:
        found.append(f"faults of the server's: {bad}")
    _, middle, last = thirds(server.memory)
    if last > 1.1 * middle + 16:
        found.append(f"memory grew from {middle:.0f} to {last:.0f} MiB")
    return found


def thirds(memory: list[float]) -> tuple[float, float, float]:
    """Return the medians of the first, the middle and the last third, in MiB."""
    third = -(-len(memory) // 3)
    first, middle, last = (
        statistics.median(part or memory)
        for part in (memory[: -2 * third], memory[-2 * third : -third], memory[-third:])
    )
    return first, middle, last


@click.command()
@click.option("--seconds", default=600.0, show_default=True, type=click.FloatRange(min=3))
@click.option("--clients", "processes", default=3, show_default=True, help="Processes that send.")
@click.option("--concurrency", default=8, show_default=True, help="Of each.")
@click.option("--cases", default=400, show_default=True, help="Different requests.")
@click.option("--seed", default=0, show_default=True)
def main(seconds: float, processes: int, concurrency: int, cases: int, seed: int) -> None:
    """Run, and print what happened; exit status 0 when all is as it has to be."""
    console = Console()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        repository = models.make(folder, models.SMALL)
        file = folder / "cases.npz"
        traffic.write_cases(file, traffic.make_cases(repository, cases, seed))
        server = Server(repository, folder)
        stack.callback(server.process.kill)
        clients = Clients(server, file, concurrency)
        stack.callback(lambda: [process.kill() for process in clients.running])
        clients.start()
        clients.finish(clients.running[0])  # what comes on demand is there now
        descriptors = server.descriptors()
        for _ in range(processes):
            clients.start()
        faults = Faults(server, clients, [path.name for path in repository.iterdir()], random.Random(seed))
        ends = time.monotonic() + seconds
        server.watch()
        while time.monotonic() < ends or not faults.complete:
            if server.process.poll() is not None:
                raise SystemExit(f"the server died with status {server.process.returncode}")
            faults.one()
            time.sleep(min(0.3, seconds / 100))
        faults.end()
        server.watched.set()
        for client in list(clients.running):
            clients.finish(client)
        found = judge(server, clients, descriptors)
        server.process.terminate()
        if (status := server.process.wait(60)) != 0:
            found.append(f"SIGTERM ended it with status {status}")
        assert server.process.stdout is not None
        server.process.stdout.close()
    how = ", ".join(f"{number:,} {code}" for code, number in clients.seen.most_common() if code != "sent")
    what = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(faults.happened.items()))
    console.print(f"{seconds:g} s: {what}", soft_wrap=True)
    console.print(f"{clients.seen['sent']:,} requests of clients that lived: {how}", soft_wrap=True)
    parts = ", ".join(f"{median:.0f}" for median in thirds(server.memory))
    console.print(
        f"{clients.wrong_count} wrong; memory {server.memory[0]:.0f} MiB at first, then {parts} (medians of thirds), "
        f"{server.memory[-1]:.0f} at the end"
    )
    for fault in found:
        console.print(fault, style="red", soft_wrap=True)
    sys.exit(1 if found or clients.wrong_count else 0)


if __name__ == "__main__":
    main()
