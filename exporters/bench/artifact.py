"""Timing a whole artifact against its dense graph and that graph in ONNX Runtime's dynamic int8."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.artifact import MODEL_FILE, Manifest, read_manifest, resolve_version, verify_files
from lazyneuron.engine.cost import CostModel
from lazyneuron.engine.cost_files import load_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import Machine, this_machine
from lazyneuron.engine.model import Model
from lazyneuron.engine.session import open_session, usable_cores
from lazyneuron.engine.text import TextEncoder
from lazyneuron.engine.timing import Timing, clock_for, ratio, time_in_turns
from lazyneuron.exporters.batches import Feed
from lazyneuron.exporters.bench.inputs import Inputs, default_shapes, shape_feeds
from lazyneuron.exporters.bench.int8 import quantize
from lazyneuron.exporters.bench.prediction import predicted_saving
from lazyneuron.exporters.bench.undo import dense_model, left_out
from lazyneuron.exporters.progress import Progress, Silent
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.sources import DenseModel

__all__ = ["RIVALS", "ArtifactBench", "BenchCase", "bench_artifact"]

RIVALS = ("dense", "int8")
_OURS = "sparse"


@dataclass(frozen=True, slots=True)
class BenchCase:
    """One batch and length.

    Attributes
    ----------
    batch, length
        `length` is None where no axis is ragged.
    rows
        Rows of a block in it: tokens.
    seconds
        Of each contender, `sparse` first.
    faster
        How many times as fast the artifact is as each of the others, turn by turn.
    off
        The largest difference of any output from the dense graph's, relative to that output's largest entry.
    sparsity
        What the artifact skipped.
    predicted
        The artifact's seconds by this machine's costs and the dense graph's median; None where those are not known.
    """

    batch: int
    length: int | None
    rows: int
    seconds: dict[str, Timing]
    faster: dict[str, Timing]
    off: dict[str, float]
    sparsity: Sparsity
    predicted: float | None = None

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        contenders = {
            name: {
                "milliseconds": 1e3 * t.median,
                "milliseconds_quartiles": [1e3 * t.low, 1e3 * t.high],
                "tokens_per_second": self.rows / t.median,
                "runs": t.runs,
                "off": self.off.get(name),
            }
            for name, t in self.seconds.items()
        }
        faster = {name: {"median": t.median, "quartiles": [t.low, t.high]} for name, t in self.faster.items()}
        skipped = self.sparsity
        candidates = sum(b.candidates for b in skipped.blocks) / max(sum(b.neurons for b in skipped.blocks), 1)
        return {
            "batch": self.batch,
            "length": self.length,
            "tokens": self.rows,
            "contenders": contenders,
            "times_as_fast_as": faster,
            "predicted_milliseconds": None if self.predicted is None else 1e3 * self.predicted,
            "density": skipped.density,
            "candidates": candidates,
            "mlp_flops_saved": skipped.flops_saved / skipped.flops_dense if skipped.flops_dense else 0.0,
        }


@dataclass(frozen=True, slots=True)
class ArtifactBench:
    """A measured artifact."""

    path: Path
    name: str
    version: int
    mode: str
    machine: Machine
    threads: int
    inputs: str
    cases: tuple[BenchCase, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "path": str(self.path),
            "name": self.name,
            "version": self.version,
            "mode": self.mode,
            "machine": self.machine.model_dump(),
            "threads": self.threads,
            "inputs": self.inputs,
            "cases": [case.document() for case in self.cases],
            "notes": list(self.notes),
        }


def bench_artifact(
    path: str | Path,
    *,
    batches: Sequence[int] = (),
    lengths: Sequence[int] = (),
    threads: int | None = None,
    against: Sequence[str] = RIVALS,
    calibration: Path | None = None,
    seconds: float = 1.0,
    progress: Progress | None = None,
) -> ArtifactBench:
    """Time an artifact over batch × length.

    The dense graph is made of the artifact's own: every operator becomes the dense block again. All sessions stay
    loaded and are timed in turns; on one thread that thread's own time counts.

    Parameters
    ----------
    path
        A model's folder (its highest version is taken) or a version's.
    batches, lengths
        Examples, and rows of each ragged axis; empty: 1 and 8, 16 and 128, as far as the model takes them.
    threads
        Of ONNX Runtime; None: one a usable core, as in serving.
    against
        Some of `RIVALS`.
    calibration
        Real input, JSON Lines or `.npz`, cut to the lengths; None: random input.
    seconds
        How long each contender is timed in each case, at least.

    Raises
    ------
    ArtifactError
        If the artifact is missing or damaged.
    InputError
        If the model does not take a batch or length.
    CalibrationError
        If the data does not fit the model, or holds too few examples of a length.
    ConfigurationError
        If a setting is wrong.
    """
    progress = progress or Silent()
    threads = threads if threads is not None else usable_cores()
    _check(batches, lengths, threads, against)
    folder = resolve_version(Path(path))
    progress.step(f"reading {folder}")
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    ours = open_session(folder / MODEL_FILE, threads=threads)
    model = Model(manifest, ours, TextEncoder.load(folder, manifest))
    dense = dense_model(folder, manifest)
    costs = _costs(threads)
    shapes = default_shapes(dense, batches, lengths)
    inputs = shape_feeds(dense, model, shapes, calibration)
    with tempfile.TemporaryDirectory(prefix="lazyneuron-") as scratch:
        # The dense graph is always opened: it tells how far the others are off.
        files = _rivals(dense, Path(scratch), int8="int8" in against, progress=progress)
        sessions = {_OURS: ours}
        sessions |= {name: open_session(file, threads=threads, sparse=False) for name, file in files.items()}
        progress.step("timing", len(inputs))
        cases, clock = [], clock_for(threads)
        for given in inputs:
            cases.append(_predicted(_case(model, sessions, given, against, seconds, clock), manifest, costs))
            progress.advance()
    kind = calibration.name if calibration is not None else "random"
    notes = left_out(manifest)
    if calibration is None:
        notes.append("Random input: its density says little about real input's (--calibration FILE gives that).")
    return ArtifactBench(
        folder,
        manifest.name,
        manifest.version,
        manifest.mode,
        this_machine(),
        threads,
        kind,
        tuple(cases),
        tuple(notes),
    )


def _check(batches: Sequence[int], lengths: Sequence[int], threads: int, against: Sequence[str]) -> None:
    for what, values in (("batch", batches), ("length", lengths), ("threads", (threads,))):
        if wrong := [v for v in values if v < 1]:
            raise ConfigurationError(f"{what} is {wrong[0]}; expected a whole number of at least 1")
    if unknown := [name for name in against if name not in RIVALS]:
        raise ConfigurationError(f"against is {unknown[0]!r}; expected some of {', '.join(RIVALS)}")


def _rivals(dense: DenseModel, scratch: Path, *, int8: bool, progress: Progress) -> dict[str, Path]:
    progress.step("making the dense graph")
    files = {"dense": scratch / "dense.onnx"}
    external = len(save(dense.model, files["dense"])) > 1
    if int8:
        progress.step("quantising it to int8")
        files["int8"] = scratch / "int8.onnx"
        quantize(files["dense"], files["int8"], external_data=external)
    return files


def _case(
    model: Model,
    sessions: Mapping[str, ort.InferenceSession],
    given: Inputs,
    against: Sequence[str],
    seconds: float,
    clock: Callable[[], float],
) -> BenchCase:
    """Run all on the same input, then time them in turns."""
    names = [spec.name for spec in model.manifest.outputs]
    prediction = model.run([model.request(given.feed)]).predictions[0]
    outputs = {name: dict(zip(names, sessions[name].run(names, given.feed), strict=True)) for name in sessions}
    # Serving fetches the counts, too.
    fetches = dict.fromkeys(against, names) | {_OURS: [o.name for o in sessions[_OURS].get_outputs()]}
    contenders = (_OURS, *against)
    work = {name: partial(sessions[name].run, fetches[name], given.feed) for name in contenders}
    times = time_in_turns(work, seconds=seconds, clock=clock)
    return BenchCase(
        batch=given.batch,
        length=given.length,
        rows=max(block.rows for block in prediction.sparsity.blocks),
        seconds={name: Timing.of(values) for name, values in times.items()},
        faster={name: ratio(times[name], times[_OURS]) for name in against},
        off={name: _off(outputs[name], outputs["dense"]) for name in contenders if name != "dense"},
        sparsity=prediction.sparsity,
    )


def _costs(threads: int) -> CostModel | None:
    """Return this machine's own costs on as many threads, if it was measured."""
    costs = load_costs()
    return costs.model if costs.own and costs.model.threads == threads else None


def _predicted(case: BenchCase, manifest: Manifest, costs: CostModel | None) -> BenchCase:
    if costs is None or "dense" not in case.seconds:
        return case
    saved = predicted_saving(costs, manifest, case.sparsity)
    return replace(case, predicted=max(case.seconds["dense"].median - saved, 0.0))


def _off(outputs: Feed, expected: Feed) -> float:
    """Return the largest difference of any output, relative to that output's largest entry."""
    worst = 0.0
    for name, dense in expected.items():
        if dense.size and dense.dtype.kind == "f":
            a, b = dense.astype(np.float64), outputs[name].astype(np.float64)
            worst = max(worst, float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-30)))
    return worst
