"""Drives a server from several generator processes and puts together what they saw; for every benchmark of a server."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

__all__ = ["INFER", "Seen", "Target", "closed_loop", "open_loop"]

INFER = "/inference.GRPCInferenceService/ModelInfer"
_GENERATOR = Path(__file__).with_name("generator.py")
_HEAD_START = 0.1  # seconds from the word to begin to the beginning: every process has read it by then

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Target:
    """What is called.

    Attributes
    ----------
    address
        `HOST:PORT`.
    messages
        Serialised requests; they are sent in turns.
    method
        `/package.Service/Method`.
    metadata
        Sent with each call.
    timeout
        Each call's seconds; None: none.
    """

    address: str
    messages: Sequence[bytes]
    method: str = INFER
    metadata: Sequence[tuple[str, str]] = ()
    timeout: float | None = None


@dataclass(frozen=True)
class Seen:
    """What the generators saw.

    Attributes
    ----------
    sent
        When each request was, or was meant to be, sent: seconds after the beginning.
    seconds
        From then to its answer.
    codes
        The number of its gRPC status.
    duration
        Seconds for which requests were sent.
    lag
        The 99th percentile of how late the generator itself sent (open loop); what it adds to the times.
    cpu
        Processor seconds of the generators.
    """

    sent: Array
    seconds: Array
    codes: Array
    duration: float
    lag: float = 0.0
    cpu: float = 0.0
    answered: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "answered", int(np.count_nonzero(self.codes == 0)))

    @property
    def rate(self) -> float:
        """Requests that were answered OK in a second, up to the last answer that came in time."""
        within = (self.codes == 0) & (self.sent + self.seconds <= self.duration)
        return float(np.count_nonzero(within)) / self.duration

    @property
    def settled_rate(self) -> float:
        """The same without the first quarter, in which a queue may still fill up or a server get used to the load."""
        at = self.sent + self.seconds
        within = (self.codes == 0) & (at > 0.25 * self.duration) & (at <= self.duration)
        return float(np.count_nonzero(within)) / (0.75 * self.duration)

    @property
    def statuses(self) -> dict[str, int]:
        """How many requests ended with each status."""
        names = {code.value[0]: code.name for code in grpc.StatusCode}
        numbers, counts = np.unique(self.codes, return_counts=True)
        return {names[int(n)]: int(c) for n, c in zip(numbers, counts, strict=True)}

    def percentile(self, share: float) -> float:
        """Return a percentile of the seconds of requests that were answered OK."""
        ok = self.seconds[self.codes == 0]
        return float(np.percentile(ok, share)) if ok.size else float("nan")


def closed_loop(target: Target, concurrency: int, seconds: float, *, processes: int = 2) -> Seen:
    """Keep `concurrency` requests under way, from up to so many processes."""
    processes = min(processes, concurrency)
    shares = [concurrency // processes + (index < concurrency % processes) for index in range(processes)]
    return _drive(target, [{"concurrency": share} for share in shares], seconds)


def open_loop(target: Target, rate: float, seconds: float, *, processes: int = 2, seed: int = 0) -> Seen:
    """Send so many requests a second at random times, whatever becomes of them."""
    specs = [{"rate": rate / processes, "seed": [seed, index]} for index in range(processes)]
    return _drive(target, specs, seconds)


def _drive(target: Target, specs: list[dict[str, Any]], seconds: float) -> Seen:
    common = {
        "address": target.address,
        "method": target.method,
        "metadata": list(target.metadata),
        "timeout": target.timeout,
        "seconds": seconds,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        messages = Path(folder) / "messages.npz"
        np.savez(messages, *[np.frombuffer(message, np.uint8) for message in target.messages])
        outputs = [Path(folder) / f"{index}.npz" for index in range(len(specs))]
        running = []
        for spec, output in zip(specs, outputs, strict=True):
            process = stack.enter_context(_generator())
            _tell(process, json.dumps({**common, **spec, "messages": str(messages), "output": str(output)}))
            running.append(process)
        for process in running:
            _expect(process, "ready")
        begin = time.monotonic() + _HEAD_START
        for process in running:
            _tell(process, repr(begin))
        for process in running:
            _expect(process, "done")
        parts = []
        for output in outputs:
            with np.load(output) as file:
                parts.append(dict(file))
    late = np.concatenate([part["late"] for part in parts])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("sent", "seconds", "codes")}
    lag = float(np.percentile(late, 99)) if late.size else 0.0
    return Seen(**joined, duration=seconds, lag=lag, cpu=float(sum(part["cpu"] for part in parts)))


@contextlib.contextmanager
def _generator() -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, str(_GENERATOR)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _expect(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line.strip() != word:
        raise SystemExit(f"the load generator stopped: {line.strip() or 'see above'}")
