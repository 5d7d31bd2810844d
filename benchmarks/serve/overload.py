"""Goodput, and the wait of what is admitted, at several times what a server can do.

A server is driven to its greatest throughput by a closed loop, and then offered multiples of that in an open loop:
requests come at random times (a Poisson process), whatever becomes of them, and each one's time counts from when it was
due. Goodput is what was answered within the requests' deadline, as a share of the greatest throughput of the same
round. Small requests (an MLP, one row) show what the server's own part of a request does under load, the encoder and
many rows what its admission by the engine's time does.

    python benchmarks/serve/overload.py [--seconds 4] [--times 1 --times 3] [--rounds 5]

The load comes from processes of its own, which take some of the cores; the table says how much. Where others use the
machine too, a server may be given less of it in one run than in the next; so goodput is also told for each second of
processor time that the server used, as a share of that in the closed loop.
"""

import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import models
import numpy as np
from contenders import Place, Served, lazyneuron_server
from driving import Seen, Target, closed_loop, open_loop
from messages import message
from rich.console import Console
from rich.table import Table

from lazyneuron.engine.session import usable_cores

IN_FLIGHT = 64
"""Of the closed loop."""
MESSAGES = 32


@dataclass(frozen=True)
class Load:
    """What is asked: a model, and how many examples in each request."""

    model: str
    examples: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.examples} a request"

    def messages(self) -> list[bytes]:
        kind = models.KINDS[self.model]
        made = []
        for seed in range(MESSAGES):
            inputs = models.draw(kind, np.random.default_rng(seed), self.examples, kind.length)
            made.append(message(self.model, inputs))
        return made


LOADS = {
    "small": Load("mlp", 1),
    "encoder": Load("encoder", 1),
    "large": Load("mlp", 256),
    "distilbert": Load("distilbert", 1),
}


@dataclass(frozen=True)
class Point:
    """One run at a multiple of the greatest throughput; `processor` is the server's seconds of it, in a second."""

    times: float
    best: float
    best_processor: float
    seen: Seen
    processor: float

    @property
    def share(self) -> float:
        """Goodput, as a share of the greatest throughput."""
        return self.seen.settled_rate / self.best

    @property
    def share_for_processor(self) -> float:
        """The same, both for a second of processor time."""
        return self.share * self.best_processor / self.processor


def measure(served: Served, load: Load, times: tuple[float, ...], seconds: float, patience: float) -> list[Point]:
    """Return a point for each multiple, all of one round."""
    messages = load.messages()
    target = Target(served.address, messages, timeout=patience)
    closed_loop(target, IN_FLIGHT, min(1.0, seconds))  # to be warm
    best, best_processor = _run(served, seconds, lambda: closed_loop(target, IN_FLIGHT, seconds))
    points = []
    for many in times:
        rate = many * best.settled_rate
        seen, processor = _run(served, seconds, lambda rate=rate: open_loop(target, rate, seconds))
        points.append(Point(many, best.settled_rate, best_processor, seen, processor))
    return points


def _run(served: Served, seconds: float, drive: Callable[[], Seen]) -> tuple[Seen, float]:
    before = _processor_seconds(served.process)
    seen = drive()
    return seen, (_processor_seconds(served.process) - before) / seconds


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(console: Console, load: Load, rounds: list[list[Point]], seconds: float) -> None:
    """Print a table of medians over the rounds."""
    best = [points[0].best for points in rounds]
    title = f"{load.name}: {statistics.median(best):,.0f} requests/s in a closed loop of {IN_FLIGHT}"
    table = Table(title=title, title_justify="left")
    of_best = ("of the best (min to max)", "for processor time")
    for column in ("offered", "in time", *of_best, "p50 ms", "p99 ms", "server's cores", "load's"):
        table.add_column(column, justify="right")
    table.add_column("ends", overflow="fold")
    for points in zip(*rounds, strict=True):
        seen, shares = [point.seen for point in points], [point.share for point in points]
        ends: Counter[str] = Counter()
        for one in seen:
            ends.update(one.statuses)
        total = sum(ends.values())
        table.add_row(
            f"{points[0].times:g} x",
            f"{statistics.median(one.settled_rate for one in seen):,.0f}/s",
            f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})",
            f"{statistics.median(point.share_for_processor for point in points):.0%}",
            *(f"{1e3 * statistics.median(one.percentile(share) for one in seen):.0f}" for share in (50, 99)),
            f"{statistics.median(point.processor for point in points):.2f}",
            f"{statistics.median(one.cpu for one in seen) / seconds:.2f}",
            ", ".join(f"{code} {count / total:.0%}" for code, count in ends.most_common()),
        )
    console.print(table)


@click.command()
@click.option("--load", "names", multiple=True, type=click.Choice(list(LOADS)), help="Default: all.")
@click.option("--times", multiple=True, type=float, default=(0.7, 1.0, 2.0, 3.0), show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of each point.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--patience", default=2.0, show_default=True, help="Each request's deadline, seconds.")
@click.option("--max-wait", default=0.5, show_default=True, help="queue.max_wait_seconds.")
@click.option("--lowest-budget", default=1.0, show_default=True, help="budget.lowest; 1: load lowers none.")
@click.option("--threads", default=usable_cores(), show_default=True, help="Of ONNX Runtime.")
def main(
    names: tuple[str, ...],
    times: tuple[float, ...],
    seconds: float,
    rounds: int,
    patience: float,
    max_wait: float,
    lowest_budget: float,
    threads: int,
) -> None:
    """Measure, and print a table for each load."""
    console, progress = Console(), Console(stderr=True)
    settings = f"[queue]\nmax_wait_seconds = {max_wait}\n[budget]\nlowest = {lowest_budget}\n"
    settings += "[clients]\nqueue_share = 1.0\n"
    of: dict[str, list[list[Point]]] = {name: [] for name in names or LOADS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = {LOADS[name].model: models.KINDS[LOADS[name].model] for name in of}
        place = Place(Path(), models.make(folder, kinds), "", threads, folder)
        for name, points in of.items():
            with lazyneuron_server(place, settings) as served:
                for number in range(rounds):
                    progress.print(f"{name}: round {number + 1}", style="dim")
                    points.append(measure(served, LOADS[name], times, seconds, patience))
    for name, points in of.items():
        show(console, LOADS[name], points, seconds)
    console.print(f"queue.max_wait_seconds {max_wait:g}, deadlines {patience:g} s, {threads} threads, {rounds} rounds")


if __name__ == "__main__":
    main()
