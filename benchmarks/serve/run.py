"""Measure the server against the engine that it is made of, and against other servers of the same dense ONNX model.

Rounds of all contenders in turns, each started, checked against ONNX Runtime's own answers, driven and stopped, so that
a change of the machine meets all of them. Load comes from other processes (`driving.py`); the figures are medians over
the rounds, with the least and the greatest. Sparsity plays no part in the rows of the dense model, which all contenders
have; the sparse one is shown beside them. (Of the digits there is the sparse artifact only; its dense form is the
peers'.)

    python benchmarks/serve/run.py [--rounds 5] [--seconds 5] [--model encoder ...] [--contender lazyneuron ...]
    make bench-serve        # the same, with the peers' environments
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import contenders
import digits
import grpc
import models
import numpy as np
import onnxruntime
from contenders import CONTENDERS, NOTES, NotStartedError, Place, Served
from driving import INFER, Seen, Target, closed_loop, open_loop
from messages import message, output
from rich.console import Console
from rich.table import Table

from lazyneuron.engine.session import usable_cores
from lazyneuron.protocol import open_inference_pb2 as pb

Array = np.ndarray[Any, Any]
Figures = dict[str, float]
MESSAGES = 32
ALONE = "engine alone"
SPARSE = "lazyneuron, sparse"
OPEN_SHARE = 0.7
"""The open loop's rate, as a share of what the closed loop reached at the largest concurrency."""
OVERLOAD = 3.0
"""The same of the overload, in which a request is of use for PATIENCE seconds after it was due."""
PATIENCE = 2.0
OVERLOADED = f"overload, {OVERLOAD:g} times"


def check(served: Served, requests: Sequence[Mapping[str, Array]], expected: Sequence[Array]) -> float:
    """Compare a server's answers with what is expected; return the greatest difference."""
    worst = 0.0
    with grpc.insecure_channel(served.address) as channel:
        call = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
        for inputs, right in zip(requests, expected, strict=True):
            answer = call(message(served.name, inputs), metadata=served.metadata, timeout=60)
            got = output(answer)
            worst = max(worst, float(np.abs(got - right).max()))
            if got.shape != right.shape or not np.allclose(got, right, rtol=1e-3, atol=1e-4):
                raise SystemExit(f"{served.name}: a wrong answer (off by {worst:g})")
    return worst


def alone(artifact: Path, concurrency: int, seconds: float, requests: Path) -> Figures:
    """Return what the engine does when it is called directly, in a process of its own."""
    script = Path(__file__).with_name("engine_alone.py")
    command = [sys.executable, script, artifact, concurrency, seconds, requests]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


class Results:
    """What every point gave in every round: (contender, point) -> figure -> a value a round."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.failed: list[str] = []

    def add(self, contender: str, point: str, figures: Figures) -> None:
        for figure, value in figures.items():
            self.of[contender, point][figure].append(value)

    def median(self, contender: str, point: str, figure: str) -> float:
        return statistics.median(self.of[contender, point][figure])

    def ratio(self, one: tuple[str, str], other: tuple[str, str], figure: str) -> float:
        """Return the median over rounds of a ratio within the round; that of the medians, if one missed a round."""
        a, b = self.of[one][figure], self.of[other][figure]
        if len(a) != len(b):
            return statistics.median(a) / statistics.median(b)
        return statistics.median(x / y for x, y in zip(a, b, strict=True))


def figures(seen: Seen) -> Figures:
    """Return the figures of a table's row."""
    if failed := {name: n for name, n in seen.statuses.items() if name != "OK"}:
        raise SystemExit(f"requests failed: {failed}")
    return {"rate": seen.rate, **tails(seen)}


def tails(seen: Seen) -> Figures:
    """Return the percentiles of the seconds to an answer."""
    return {f"p{share}": seen.percentile(float(share)) for share in ("50", "99", "99.9")}


def drive(
    served: Served, messages: Sequence[bytes], concurrencies: Sequence[int], seconds: float
) -> dict[str, Figures]:
    """Return a server's figures at each concurrency, and in an open loop below its capacity."""
    target = Target(served.address, messages, metadata=served.metadata)
    closed_loop(target, max(concurrencies), min(1.0, seconds))  # to be warm
    points = {f"{n} at a time": figures(closed_loop(target, n, seconds)) for n in concurrencies}
    rate = OPEN_SHARE * points[f"{max(concurrencies)} at a time"]["rate"]
    points[f"open loop at {OPEN_SHARE:.0%}"] = figures(open_loop(target, rate, seconds))
    points[OVERLOADED] = overload(target, points[f"{max(concurrencies)} at a time"]["rate"], seconds)
    return points


def overload(target: Target, best: float, seconds: float) -> Figures:
    """Offer a multiple of the greatest throughput; what is not answered in time counts as nothing."""
    seen = open_loop(dataclasses.replace(target, timeout=PATIENCE), OVERLOAD * best, seconds)
    time.sleep(PATIENCE)  # a server that computes what nobody waits for any more has come to the end of it
    return {"rate": seen.settled_rate, **tails(seen), "share": seen.settled_rate / best}


def measure(
    place: Place,
    requests: Sequence[Mapping[str, Array]],
    concurrencies: Sequence[int],
    seconds: float,
    chosen: Sequence[str],
    results: Results,
    say: Callable[[str], None],
) -> None:
    """Run one round of one model."""
    session = onnxruntime.InferenceSession(str(place.model))
    expected = [session.run(None, dict(inputs))[0] for inputs in requests]
    file = place.scratch / "requests.npz"
    np.savez(file, **{f"{n}/{key}": value for n, inputs in enumerate(requests) for key, value in inputs.items()})
    for model, label in ((place.name, ALONE), (f"{place.name}-sparse", f"{ALONE}, sparse")):
        if (place.repository / model).is_dir():
            say(f"{label}")
            for n in concurrencies:
                results.add(label, f"{n} at a time", alone(place.repository / model, n, seconds, file))
    messages = [message(place.name, inputs) for inputs in requests]
    say("echo")
    with contenders.echoing(sum(array.nbytes for array in expected[:1]), place.scratch) as served:
        for n in concurrencies:
            seen = closed_loop(Target(served.address, messages), n, seconds)
            results.add("bare grpcio echo", f"{n} at a time", figures(seen))
    for contender in chosen:
        say(contender)
        try:
            with CONTENDERS[contender](place) as served:
                off = check(served, requests[:4], expected[:4])
                for point, values in drive(served, messages, concurrencies, seconds).items():
                    results.add(contender, point, values | {"off": off})
                if contender == "lazyneuron" and (place.repository / f"{place.name}-sparse").is_dir():
                    sparse = Served(served.address, f"{place.name}-sparse")
                    off = check(sparse, requests[:4], expected[:4])
                    own = [message(sparse.name, inputs) for inputs in requests]
                    for point, values in drive(sparse, own, concurrencies, seconds).items():
                        results.add(SPARSE, point, values | {"off": off})
        except NotStartedError as error:
            results.failed.append(f"{contender} did not start: {error}")


def show(console: Console, title: str, results: Results, concurrencies: Sequence[int]) -> None:
    """Print a model's table and what follows from it."""
    table = Table(title=title, title_justify="left")
    for column in ("", "", "requests/s (min to max)", "p50 ms", "p99 ms", "p99.9 ms", "largest difference"):
        table.add_column(column, justify="right" if column else "left")
    for (contender, point), all_figures in results.of.items():
        rates = all_figures["rate"]
        row = [contender, point, f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"]
        tail = (all_figures.get(figure) for figure in ("p50", "p99", "p99.9"))
        row += [f"{1e3 * statistics.median(times):.2f}" if times else "" for times in tail]
        row.append(f"{max(all_figures['off']):.1g}" if "off" in all_figures else "")
        table.add_row(*row)
    console.print(table)
    for ours, engine in (("lazyneuron", ALONE), (SPARSE, f"{ALONE}, sparse")):
        if (ours, "1 at a time") not in results.of:
            continue
        shares = [
            f"{results.ratio((ours, f'{n} at a time'), (engine, f'{n} at a time'), 'rate'):.2f} at {n}"
            for n in concurrencies
        ]
        over = [
            a - b
            for a, b in zip(
                results.of[ours, "1 at a time"]["p50"], results.of[engine, "1 at a time"]["p50"], strict=True
            )
        ]
        console.print(
            f"{ours}: served/engine {', '.join(shares)}; p50 overhead at 1 {1e3 * statistics.median(over):.2f} ms"
        )
    for contender, point in results.of:
        if point == OVERLOADED:
            share = results.median(contender, point, "share")
            console.print(f"{contender}: {share:.0%} of its greatest throughput at {OVERLOAD:g} times as much")
    largest = f"{max(concurrencies)} at a time"
    for other in CONTENDERS:
        if other != "lazyneuron" and (other, largest) in results.of and ("lazyneuron", largest) in results.of:
            at = [
                f"{results.ratio(('lazyneuron', f'{n} at a time'), (other, f'{n} at a time'), 'rate'):.2f} times at {n}"
                for n in concurrencies
            ]
            console.print(f"lazyneuron against {other}: {', '.join(at)}")


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=5.0, show_default=True, help="Of each point.")
@click.option("--concurrency", "concurrencies", multiple=True, type=int, default=(1, 16, 64), show_default=True)
@click.option("--model", "names", multiple=True, type=click.Choice([*models.KINDS, digits.NAME]), help="Default: all.")
@click.option("--contender", "chosen", multiple=True, type=click.Choice(list(CONTENDERS)), help="Default: all.")
@click.option("--threads", default=usable_cores(), show_default=True, help="Of ONNX Runtime, for everybody.")
@click.option("--output", type=click.Path(path_type=Path), help="Also write every round's figures, as JSON.")
def main(
    rounds: int,
    seconds: float,
    concurrencies: tuple[int, ...],
    names: tuple[str, ...],
    chosen: tuple[str, ...],
    threads: int,
    output: Path | None,
) -> None:
    """Measure, and print a table for each model."""
    console, progress = Console(), Console(stderr=True)
    picked = list(names) or [*models.KINDS, *([digits.NAME] if digits.there() else [])]
    concurrencies = tuple(sorted({1, *concurrencies}))
    results: dict[str, Results] = {name: Results() for name in picked}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repository = models.make(folder, {name: models.KINDS[name] for name in picked if name in models.KINDS})
        if digits.NAME in picked:
            digits.make(folder)
        for number in range(rounds):
            for name in picked:
                place = Place(folder / f"{name}.onnx", repository, name, threads, folder)
                draw = digits.example if name == digits.NAME else models.example
                requests = [draw(name, seed) for seed in range(MESSAGES)]
                said = f"round {number + 1}, {name}"
                measure(
                    place,
                    requests,
                    concurrencies,
                    seconds,
                    list(chosen) or list(CONTENDERS),
                    results[name],
                    lambda what, said=said: progress.print(f"{said}: {what}", style="dim"),
                )
    for name, of in results.items():
        show(console, f"{name}, {threads} threads, median of {rounds} rounds of {seconds:g} s", of, concurrencies)
    for contender in list(chosen) or list(CONTENDERS):
        console.print(f"{contender}: {NOTES[contender]}", soft_wrap=True)
    failed = [line for of in results.values() for line in of.failed]
    for line in failed:
        console.print(line, style="red", soft_wrap=True, markup=False)
    if output is not None:
        document = {name: {" | ".join(key): value for key, value in of.of.items()} for name, of in results.items()}
        output.write_text(json.dumps(document, indent=1))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
