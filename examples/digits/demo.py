"""The whole path on real images: train, inspect, export, serve, classify over gRPC, and read what was skipped.

Two models side by side: a plain ReLU one, and one trained with the paper's top-k in its MLPs. The trained weights are
kept in `demo/digits` for next time. Run it by `make demo`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import checkpoint
import data
import numpy as np
import torch
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

import lazyneuron
from lazyneuron.engine.artifact import read_manifest, resolve_version

HERE = Path(os.path.relpath(Path(__file__).parent))
FOLDER = Path("demo/digits")
REPOSITORY = FOLDER / "models"
CALIBRATION = FOLDER / "calibration.npz"
MODELS = {"digits-plain": ("plain", 0), "digits-top-k": ("top_k", checkpoint.TOP_K)}
COMMAND = [sys.executable, "-m", "lazyneuron"]

console = Console()


def main() -> None:
    """Tell the story from beginning to end."""
    os.environ["DIGITS_WEIGHTS"] = str(FOLDER)
    FOLDER.mkdir(parents=True, exist_ok=True)
    train()
    train_images = data.load()[0]
    np.savez(CALIBRATION, image=train_images)
    for name, (function, _) in MODELS.items():
        step(f"Inspect {name}: how sparse is it?")
        run("inspect", f"{HERE}/checkpoint.py:{function}", "--calibration", CALIBRATION)
    shutil.rmtree(REPOSITORY, ignore_errors=True)
    for name, (function, _) in MODELS.items():
        step(f"Export {name}")
        source = f"{HERE}/checkpoint.py:{function}"
        # auto would choose by this machine's speed; the figures below are of mode exact everywhere.
        run("export", source, "--output", REPOSITORY / name, "--calibration", CALIBRATION, "--mode", "exact")
    step("Serve both, and classify the held-out images over gRPC")
    with served() as (grpc, http):
        accuracy = {name: classify(name, grpc) for name in MODELS}
        metrics = scrape(http)
        console.print(f"  metrics while it ran: {http}/metrics")
    show(accuracy, metrics)


def step(text: str) -> None:
    """Print a heading."""
    console.rule(f"[bold]{text}", align="left")


def run(*args: object) -> None:
    """Run `lazyneuron` with these arguments; stop the demo where it fails."""
    words = [str(a) for a in args]
    console.print(f"[dim]$ lazyneuron {' '.join(words)}", soft_wrap=True)
    if subprocess.run([*COMMAND, *words], check=False).returncode:
        sys.exit(f"the demo stops: lazyneuron {words[0]} failed")


def train() -> None:
    """Train what is not there yet, both models at once."""
    step("Train two small ViTs on handwritten digits (kept for next time)")
    missing = [(name, k) for name, k in MODELS.values() if not (FOLDER / f"{name}.safetensors").is_file()]
    script = [sys.executable, str(HERE / "train.py")]
    runs = [
        subprocess.Popen([*script, "--top-k", str(k), "--output", str(FOLDER / f"{name}.safetensors")])
        for name, k in missing
    ]
    statuses = [process.wait() for process in runs]
    if any(statuses):
        sys.exit("the demo stops: training failed")
    console.print(f"  weights in {FOLDER}")


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """Serve the repository on free ports; give the gRPC address and the HTTP one; stop it by SIGTERM."""
    command = [*COMMAND, "serve", str(REPOSITORY), "--grpc-port", "0", "--http-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        found = re.match(r"ready: gRPC on (\S+), metrics and health on (http://\S+)/", ready)
        if found is None:
            sys.exit(f"the demo stops: the server did not start ({ready.strip()})")
        yield found[1], found[2]
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=30):
            sys.exit(f"the demo stops: the server ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()


def classify(name: str, address: str) -> float:
    """Return the accuracy over the held-out images, each sent as a request of its own, 16 at a time."""
    _, images, _, labels = data.load()
    with lazyneuron.Client(address) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda image: client.predict(name, {"image": image[None]}), images))
    predicted = [int(next(iter(a.outputs.values())).argmax()) for a in answers]
    return float(np.mean(np.asarray(predicted) == labels))


def dense_accuracy(function: str) -> float:
    """Return the accuracy of the PyTorch model itself."""
    _, images, _, labels = data.load()
    model, _ = getattr(checkpoint, function)()
    with torch.no_grad():
        predicted = model(torch.from_numpy(images)).argmax(-1).numpy()
    return float(np.mean(predicted == labels))


def scrape(http: str) -> dict[tuple[str, str, str], float]:
    """Return the Prometheus samples by (metric, model, block)."""
    with urllib.request.urlopen(f"{http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (s.name, s.labels.get("model", ""), s.labels.get("block", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name.startswith("lazyneuron_mlp_")
    }


def show(accuracy: dict[str, float], metrics: dict[tuple[str, str, str], float]) -> None:
    """Print the two models side by side."""
    table = Table(title="Dense against sparse, on 360 held-out images")
    table.add_column("")
    for name in MODELS:
        table.add_column(name, justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("accuracy, dense (PyTorch)", [f"{dense_accuracy(function):.1%}" for function, _ in MODELS.values()]),
        ("accuracy, served sparse", [f"{accuracy[name]:.1%}" for name in MODELS]),
    ]
    blocks = [[b.name for b in read_manifest(resolve_version(REPOSITORY / name)).blocks] for name in MODELS]
    for index, pair in enumerate(zip(*blocks, strict=True)):
        cells = [f"{density(metrics, name, block):.2%}" for name, block in zip(MODELS, pair, strict=True)]
        rows.append((f"density of block {index}", cells))
    rows.append(("MLP FLOPs saved (Prometheus)", [f"{saved(metrics, name):.1%}" for name in MODELS]))
    for label, cells in rows:
        table.add_row(label, *cells)
    console.print(table)
    console.print("The up projection is computed in full (mode exact), so no more than half can be saved here.")
    for name in MODELS:
        console.print(f"  report: {REPOSITORY / name / '1' / 'report.html'}")
    again = f".venv/bin/lazyneuron serve {REPOSITORY}"
    console.print(f"Serve them again: {again}   (metrics on http://127.0.0.1:8002/metrics)", soft_wrap=True)


def density(metrics: dict[tuple[str, str, str], float], model: str, block: str) -> float:
    """Return the share of the block's neurons that fired, as the server counted."""
    active = metrics["lazyneuron_mlp_neurons_active_total", model, block]
    return active / metrics["lazyneuron_mlp_neurons_total", model, block]


def saved(metrics: dict[tuple[str, str, str], float], model: str) -> float:
    """Return the share of the MLP blocks' FLOPs that were not executed, as the server counted."""
    executed = metrics["lazyneuron_mlp_flops_executed_total", model, ""]
    return 1 - executed / metrics["lazyneuron_mlp_flops_dense_total", model, ""]


if __name__ == "__main__":
    main()
