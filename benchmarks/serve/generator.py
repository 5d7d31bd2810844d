"""One process of a load on a gRPC server: prepared messages out, times and statuses back. Started by `driving.py`.

It reads what to do as JSON on a line of standard input, connects, says `ready`, waits for the line with the time to
begin (of `time.monotonic`, which all processes of a machine share), and at the end writes its times to a file. Answers
are not decoded, and HTTP/2 is spoken directly (`http2.py`), so that the generator takes as little of the machine as
Python can; that the answers are right is checked before.

Closed loop: a number of callers, each of which sends when its answer has come. Open loop: requests at random times
that are drawn beforehand (a Poisson process), sent whether or not earlier ones have been answered; what is measured is
from the time that a request was *meant* to be sent, so a server that stalls is charged for all who would have come
(Gil Tene's coordinated omission).
"""

import json
import select
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from http2 import Connection

_LATE_SECONDS = 30.0
_DEADLINE_EXCEEDED = 4


class Load:
    """What this process does, and what it has seen."""

    def __init__(self, spec: dict[str, Any], messages: list[bytes]) -> None:
        self.spec = spec
        self.messages = messages
        self.number = 0
        self.under_way = 0
        self.sent: list[float] = []
        self.seconds: list[float] = []
        self.codes: list[int] = []
        self.late: list[float] = []
        self.timeout: float | None = spec.get("timeout")
        self.expiring: deque[tuple[float, int, float]] = deque()
        metadata = [(name, value) for name, value in spec.get("metadata", [])]
        self.connection = Connection(spec["address"], spec["method"], metadata, self.timeout)

    def run(self) -> None:
        self.begins = time.monotonic()
        self.call(self.begins)
        while self.under_way:  # connected, and what comes on demand is there
            self.turn(1.0)
        self.sent, self.seconds, self.codes = [], [], []
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        self.begins = float(sys.stdin.readline())
        self.ends = self.begins + self.spec["seconds"]
        while (left := self.begins - time.monotonic()) > 0:
            self.turn(left)
        self.used = time.process_time()
        if "rate" in self.spec:
            self.open()
        else:
            self.closed()
        self.used = time.process_time() - self.used
        self.connection.close()

    def closed(self) -> None:
        while (now := time.monotonic()) < self.ends or self.under_way:
            while now < self.ends and self.under_way < self.spec["concurrency"]:
                self.call(time.monotonic())
            self.turn(1.0)

    def open(self) -> None:
        rng = np.random.default_rng(self.spec["seed"])
        gaps = rng.exponential(1 / self.spec["rate"], int(self.spec["rate"] * self.spec["seconds"] * 2) + 100)
        times = self.begins + gaps.cumsum()
        due = deque(times[times < self.ends].tolist())
        gives_up = self.ends + _LATE_SECONDS
        while due or (self.under_way and time.monotonic() < gives_up):
            while due and due[0] <= (now := time.monotonic()):
                self.late.append(now - due[0])
                self.call(due.popleft())
            self.turn(max(0.0, due[0] - time.monotonic()) if due else 1.0)

    def call(self, meant: float) -> None:
        def done(code: int) -> None:
            self.note(meant, code)

        stream = self.connection.call(self.messages[self.number % len(self.messages)], done)
        self.number += 1
        self.under_way += 1
        if self.timeout is not None:
            self.expiring.append((time.monotonic() + self.timeout, stream, meant))

    def note(self, meant: float, code: int) -> None:
        self.under_way -= 1
        self.sent.append(meant - self.begins)
        self.seconds.append(time.monotonic() - meant)
        self.codes.append(code)

    def turn(self, wait: float) -> None:
        """Send, wait for what comes, or until a deadline, and take it."""
        self.connection.write()
        self.expire()
        if self.expiring:
            wait = min(wait, max(0.0, self.expiring[0][0] - time.monotonic()))
        writing = [self.connection.socket] if self.connection.wants_to_write else []
        readable, _, _ = select.select([self.connection.socket], writing, [], wait)
        if readable:
            self.connection.read()

    def expire(self) -> None:
        while self.expiring and self.expiring[0][0] <= time.monotonic():
            _, stream, meant = self.expiring.popleft()
            if self.connection.cancel(stream):
                self.note(meant, _DEADLINE_EXCEEDED)


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    with np.load(spec["messages"]) as file:
        messages = [file[name].tobytes() for name in file.files]
    load = Load(spec, messages)
    load.run()
    with Path(spec["output"]).open("wb") as stream:
        np.savez(stream, sent=load.sent, seconds=load.seconds, codes=load.codes, late=load.late, cpu=load.used)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
