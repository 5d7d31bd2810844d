"""Count wrong answers: many mixed requests against a server process, each compared with what the engine gives alone.

    python benchmarks/serve/correctness.py [--requests 200000]

Exit status 0 when no answer was wrong, none is missing, and the server's own counts agree.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import click
import models
import traffic
from contenders import Place, lazyneuron_server
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console


def scraped(http: str) -> Counter[str]:
    """Return what the server counted: answers by status, and what still waits."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "lazyneuron_requests_total":
                counts[sample.labels["code"]] += int(sample.value)
            if sample.name == "lazyneuron_queue_requests":
                counts["waiting"] += int(sample.value)
    return counts


def disagreements(seen: Counter[str], counted: Counter[str]) -> list[str]:
    """Compare the clients' counts with the server's.

    A client that has hung up does not hear how its call ended, and a call may end before it is sent; both are among the
    CANCELLED and DEADLINE_EXCEEDED of the clients. Everything else must be the same number on both sides.
    """
    unheard = seen["CANCELLED"] + seen["DEADLINE_EXCEEDED"]
    found = [
        f"{code}: clients saw {seen[code]:,}, the server counted {counted[code]:,}"
        for code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNKNOWN")
        if not seen[code] <= counted[code] <= seen[code] + unheard
    ]
    total = sum(number for code, number in counted.items() if code != "waiting")
    if not seen["sent"] - unheard <= total <= seen["sent"]:
        found.append(f"{seen['sent']:,} were sent and {total:,} counted")
    if seen["sent"] != sum(number for code, number in seen.items() if code != "sent"):
        found.append("a request has neither an answer nor an error")
    if counted["waiting"]:
        found.append(f"{counted['waiting']} still wait")
    return found


@click.command()
@click.option("--requests", default=200_000, show_default=True, type=click.IntRange(min=1))
@click.option("--concurrency", default=64, show_default=True, help="Of each of the processes.")
@click.option("--processes", default=2, show_default=True)
@click.option("--cases", default=1500, show_default=True, help="Different requests.")
@click.option("--seed", default=0, show_default=True)
def main(requests: int, concurrency: int, processes: int, cases: int, seed: int) -> None:
    """Send, compare and count."""
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repository = models.make(folder, models.SMALL)
        file = folder / "cases.npz"
        drawn = traffic.make_cases(repository, cases, seed)
        traffic.write_cases(file, drawn)
        place = Place(Path(), repository, "", 1, folder)
        begun = time.monotonic()
        with lazyneuron_server(place) as served:
            parts = []
            for index in range(processes):
                share = requests // processes + (index < requests % processes)
                arguments = [served.address, file, share, concurrency, seed + index]
                words = [sys.executable, str(Path(traffic.__file__)), *map(str, arguments)]
                parts.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            answers = [json.loads(part.communicate()[0].splitlines()[-1]) for part in parts]
            seconds = time.monotonic() - begun
            seen: Counter[str] = Counter()
            for answer in answers:
                seen.update(answer["counts"])
            counted = scraped(served.http)
            for _ in range(200):  # cancelled calls are counted when the server has heard of it
                if not disagreements(seen, counted):
                    break
                time.sleep(0.05)
                counted = scraped(served.http)
    wrong = sum(answer["wrong_count"] for answer in answers)
    faults = [line for answer in answers for line in answer["wrong"]] + disagreements(seen, counted)
    how = ", ".join(f"{number:,} {code}" for code, number in seen.most_common() if code != "sent")
    console.print(f"{seen['sent']:,} requests in {seconds:.0f} s: {how}", soft_wrap=True)
    console.print(f"{wrong} wrong answers of {seen['OK']:,}, from {len(drawn):,} different requests")
    for fault in faults:
        console.print(fault, style="red", soft_wrap=True)
    sys.exit(1 if wrong or faults else 0)


if __name__ == "__main__":
    main()
