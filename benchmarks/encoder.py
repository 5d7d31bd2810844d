"""Measure a whole T5-base-shaped encoder against ONNX Runtime, PyTorch, OpenVINO and CTranslate2.

The model is `planted_t5.py`'s: random weights with the densities of trained ones, 3 % on average. Every engine runs
the same checkpoint on the same token ids, in a process of its own; they take turns, round by round, on the same number
of threads. Where an engine has several settings of equal meaning (see VARIANTS), a short trial at 8x128 keeps the
fastest. The predictor alone runs a second checkpoint, of the same shape and densities, whose neurons a predictor of
rank 64 finds (`planted_t5.PREDICTABLE_FALL`); dense engines take the same time on both.

"error" is the largest difference from ONNX Runtime's float32 output on the same checkpoint, in shares of its largest
entry. The turn of an engine is one run, or as many as fit in 50 ms, of which the median counts; ratios are of turns of
one round. Excluded: tokenization (ids go in), and the transfer between processes. Nothing else may run meanwhile.

    make bench-encoder         # or, with peers in .venv-peers: python benchmarks/encoder.py [--quick] [--help]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from encoder_models import Made, make
from harness import Ratio, bars, machine, ratio
from planted_t5 import densities

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
VARIANTS = {
    "ORT float32": ("ort-float32", "ort-float32-blocking"),
    "ORT int8": ("ort-int8", "ort-int8-per-channel", "ort-int8-per-channel-blocking"),
    "PyTorch float32": ("pytorch-float32", "pytorch-float32-compiled"),
    "PyTorch bfloat16": ("pytorch-bfloat16", "pytorch-bfloat16-compiled"),
    "OpenVINO float32": ("openvino-float32",),
    "OpenVINO bfloat16": ("openvino-bfloat16",),
    "OpenVINO int8 weights": ("openvino-int8-compressed",),
    "OpenVINO int8 static": ("openvino-int8-quantized",),
    "CTranslate2 float32": ("ctranslate2-float32",),
    "CTranslate2 int8": ("ctranslate2-int8",),
    "exact": ("lazyneuron-exact", "lazyneuron-exact-spinning"),
    "certified": ("lazyneuron-certified", "lazyneuron-certified-spinning"),
    "certified, rest int8": ("lazyneuron-certified-int8", "lazyneuron-certified-int8-spinning"),
    "predictor, rest int8": ("lazyneuron-predictor-int8", "lazyneuron-predictor-int8-spinning"),
}
"""Row of the table -> engines, of which the fastest is kept."""
BASE, INT8 = "ORT float32", "ORT int8"
EXACT = {"ORT float32", "PyTorch float32", "OpenVINO float32", "CTranslate2 float32", "exact", "certified"}
"""Rows that must give the float32 output."""
OURS = {"exact", "certified", "certified, rest int8", "predictor, rest int8"}
TOLERANCE = 1e-3
TRIAL = (8, 128)
TURN_SECONDS = 0.05
PAUSE_SECONDS = 0.005  # between turns: what the last engine's threads may still spin
LEAST_ROUNDS = 7


class Engine:
    """One engine's process.

    Raises
    ------
    RuntimeError
        If it cannot start or an answer fails.
    """

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        python = PEERS if name.startswith(("openvino", "ctranslate2")) else sys.executable
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
        self._name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [python, HERE / "encoder_engines.py", name, folder, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._read()

    def run(self, shape: tuple[int, int], repeats: int = 1, output: Path | None = None) -> list[float]:
        """Run the shape; return each run's seconds."""
        asked = {"batch": shape[0], "length": shape[1], "repeats": repeats, "output": str(output) if output else None}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": self._last_words()}
        if "failed" in answer:
            raise RuntimeError(f"{self._name}: {answer['failed']}")
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        return (self._log.read().decode(errors="replace").strip().splitlines() or ["ended without a word"])[-1]


@contextmanager
def engine(name: str, folder: Path, threads: int) -> Iterator[Engine]:
    """Start an engine's process, and end it."""
    process = Engine(name, folder, threads)
    try:
        yield process
    finally:
        process.close()


def choose(
    folder: Path,
    threads: int,
    rows: Sequence[str],
    seconds: float,
    variants: Mapping[str, Sequence[str]] = VARIANTS,
) -> dict[str, str]:
    """Return the fastest engine of each row; a row of which none starts is left out, and said."""
    chosen = {}
    for row in rows:
        best: dict[str, float] = {}
        for name in variants[row]:
            try:
                with engine(name, folder, threads) as process:
                    process.run(TRIAL, 2)
                    end, runs = time.perf_counter() + seconds, []
                    while time.perf_counter() < end or len(runs) < 3:
                        runs += process.run(TRIAL)
                    best[name] = statistics.median(runs)
            except (RuntimeError, OSError) as error:
                click.echo(f"not measured: {error}", err=True)
        if best:
            chosen[row] = min(best, key=best.__getitem__)
            shown = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in best.items())
            click.echo(f"  {row}: {chosen[row]} ({shown})", err=True)
    return chosen


def measure(engines: dict[str, Engine], shape: tuple[int, int], seconds: float) -> dict[str, list[float]]:
    """Let the engines take turns at a shape; return for each its rounds' medians, in seconds."""
    repeats = {}
    for row, process in engines.items():
        process.run(shape, 2)
        repeats[row] = max(1, int(TURN_SECONDS / min(process.run(shape, 2))))
    times: dict[str, list[float]] = {row: [] for row in engines}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[BASE]) < LEAST_ROUNDS:
        for row, process in engines.items():
            times[row].append(statistics.median(process.run(shape, repeats[row])))
            time.sleep(PAUSE_SECONDS)
    return times


def errors(engines: dict[str, Engine], predictable: Engine, shape: tuple[int, int], scratch: Path) -> dict[str, float]:
    """Return each row's largest difference from the float32 output.

    Raises
    ------
    SystemExit
        If a row that promises the float32 output does not give it.
    """
    given = scratch / "output.npy"

    def output(process: Engine) -> np.ndarray:
        process.run(shape, 1, given)
        return np.load(given).astype(np.float64)

    references = {False: output(engines[BASE]), True: output(predictable)}
    found = {}
    for row, process in engines.items():
        reference = references[row.startswith("predictor")]
        found[row] = float(np.abs(output(process) - reference).max() / np.abs(reference).max())
        if row in EXACT and not found[row] <= TOLERANCE:
            raise SystemExit(f"{row} at {shape}: off by {found[row]:.1e}; nothing was timed")
    return found


def show(times: dict[str, list[float]], found: dict[str, float], chosen: dict[str, str]) -> dict[str, Ratio]:
    """Print one shape's table; return the ratios against float32."""
    ratios = {row: ratio(times[BASE], values) for row, values in times.items()}
    width = max(map(len, times))
    click.echo(f"{'':{width}} {'median ms':>10}  {'against float32':>24}  {'against int8':>24}  {'error':>8}")
    for row, values in times.items():
        int8 = str(ratio(times[INT8], values)) if INT8 in times else "-"
        click.echo(
            f"{row:{width}} {1e3 * statistics.median(values):10.2f}  {ratios[row]!s:>24}  {int8:>24}  "
            f"{found[row]:8.1e}  {chosen[row]}"
        )
    return ratios


def describe(made: Made, layers: int) -> None:
    """Print what the model is and how far the planting went."""
    planted = densities(layers)
    blocks = made.certified.blocks
    click.echo(
        f"T5-base-shaped encoder: {layers} layers, 768 / 3072, 12 heads; densities planted / found in calibration (%): "
        + ", ".join(f"{100 * p:.1f}/{100 * b.density.mean:.1f}" for p, b in zip(planted, blocks, strict=True))
    )
    found = [b.candidates / b.density.mean for b in blocks]
    click.echo(
        f"mean density {100 * statistics.mean(b.density.mean for b in blocks):.2f} %; candidates over active: "
        f"certified {statistics.mean(found):.2f} ({min(found):.2f} to {max(found):.2f}), predictor "
        f"{made.predictor_candidates:.2f} at {100 * made.predictor_recall:.1f} % recall"
    )


Panels = dict[str, dict[str, dict[str, Ratio]]]


def _without(panels: Panels, row: str) -> Panels:
    return {
        panel: {shape: {k: v for k, v in bar.items() if k != row} for shape, bar in groups.items()}
        for panel, groups in panels.items()
    }


def _shape(text: str) -> tuple[int, int]:
    batch, length = map(int, text.split("x"))
    return batch, length


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--shape", "shapes", multiple=True, default=("1x16", "1x128", "8x128", "8x512"), show_default=True)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--layers", default=12, show_default=True, type=click.IntRange(1, 12))
@click.option("--seconds", default=60.0, show_default=True, help="For each shape, all engines together.")
@click.option("--only", multiple=True, type=click.Choice(list(VARIANTS)), help="These rows, besides ORT's.")
@click.option("--picture", type=click.Path(path_type=Path), help="A .png or .svg file to draw into.")
@click.option("--models", type=click.Path(path_type=Path), help="Keep the models in this new folder.")
@click.option(
    "--quick", is_flag=True, help="Two layers, one thread, small shapes, no compilation: a check, no figures."
)
def main(
    shapes: tuple[str, ...],
    threads: tuple[int, ...],
    layers: int,
    seconds: float,
    only: tuple[str, ...],
    picture: Path | None,
    models: Path | None,
    *,
    quick: bool,
) -> None:
    if quick:
        shapes, threads, layers, seconds = ("1x16", "2x32"), (1,), 2, 3.0
    rows = [row for row in VARIANTS if not only or row in {BASE, INT8, *only}]
    if quick:
        rows = [row for row in rows if not row.startswith("PyTorch bfloat16")]
        VARIANTS["PyTorch float32"] = ("pytorch-float32",)
    panels: Panels = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = models or Path(scratch) / "models"
        made = make(folder, layers=layers, peers=PEERS, say=lambda text: click.echo(text, err=True))
        describe(made, layers)
        for count in threads:
            click.echo(f"\n{machine(count)}")
            chosen = choose(folder, count, rows, min(seconds / 10, 3.0))
            with ExitStack() as stack:
                engines = {row: stack.enter_context(engine(name, folder, count)) for row, name in chosen.items()}
                panel = panels.setdefault(f"{count} thread(s)", {})
                for text in shapes:
                    shape = _shape(text)
                    with engine("reference-predictor", folder, count) as predictable:
                        found = errors(engines, predictable, shape, Path(scratch))
                    click.echo(f"\n{text}, {count} thread(s); median, times as fast (quartiles)")
                    panel[text] = show(measure(engines, shape, seconds), found, chosen)
    if picture:
        bars(
            picture,
            f"T5-base-shaped encoder, {machine(max(threads))}",
            panels,
            "ONNX Runtime float32",
            OURS.__contains__,
        )


if __name__ == "__main__":
    main()
