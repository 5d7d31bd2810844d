"""`evaluate`: an artifact against its dense graph on a person's data."""

import tempfile
from pathlib import Path

from lazyneuron.engine.artifact import MODEL_FILE, read_manifest, resolve_version, verify_files
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import this_machine
from lazyneuron.engine.model import Model
from lazyneuron.engine.session import open_session, usable_cores
from lazyneuron.engine.text import TextEncoder
from lazyneuron.engine.timing import clock_for
from lazyneuron.exporters.bench.undo import dense_model, left_out
from lazyneuron.exporters.evaluation.corruptions import Corruption, corruptions_for
from lazyneuron.exporters.evaluation.labelled import LabelledSet, read_labelled
from lazyneuron.exporters.evaluation.memory import measure_memory
from lazyneuron.exporters.evaluation.readings import Reading, reading_for
from lazyneuron.exporters.evaluation.reference import read_reference
from lazyneuron.exporters.evaluation.report import CorruptedCase, EvaluationReport
from lazyneuron.exporters.evaluation.running import NEIGHBOURS, Graphs, Outcome, run_both
from lazyneuron.exporters.evaluation.speed import time_both
from lazyneuron.exporters.evaluation.statistics import Measured
from lazyneuron.exporters.evaluation.verdict import judge
from lazyneuron.exporters.progress import Progress, Silent
from lazyneuron.exporters.sessions import save

__all__ = ["MAX_QUALITY_DROP", "evaluate"]

MAX_QUALITY_DROP = 0.01
"""The loss that a verdict allows where nobody says."""
_FEW = 100  # examples, under which a bootstrap's interval is rough


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    against: str | Path | None = None,
    corruptions: bool = False,
    memory: bool = True,
    max_quality_drop: float = MAX_QUALITY_DROP,
    threads: int | None = None,
    seconds: float = 1.0,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Compare an artifact with its dense graph, and judge whether to use it.

    The dense graph is made of the artifact's own: every operator becomes the dense block again. Examples are read one
    after another, as often as they are needed; of each no more than a few sums is kept, and of embeddings the first
    2,048 vectors.

    Parameters
    ----------
    model
        A model's folder (its highest version is taken) or a version's.
    data
        JSON Lines or `.npz` in the calibration format, with an optional `"label"` for each example: a class' number or
        name, a list of them for many labels or one a token, numbers for a regression. Language models are judged by
        the texts themselves.
    against
        The dense model to compare with, a checkpoint or another artifact with the same inputs and outputs: what a
        tuned model was before it was tuned. None: the artifact's own dense graph.
    memory
        Whether to measure what both graphs keep in memory, each in a process of its own.
    corruptions
        Whether to compare both graphs on corrupted data, too: images under Gaussian, impulse and shot noise, texts with
        typos and without some of their tokens, each in three amounts. The data is gone through once for each.
    max_quality_drop
        The greatest loss that the verdict allows: a difference of shares (accuracy, agreement), or of perplexities and
        squared errors a share.
    threads
        Of ONNX Runtime; None: one a usable core, as in serving.
    seconds
        How long each graph is timed in each case, at least.

    Raises
    ------
    ArtifactError
        If the artifact is missing or damaged.
    CalibrationError
        If the data is missing or empty, or an example or its label does not fit the model.
    ConfigurationError
        If a setting is wrong.
    """
    progress = progress or Silent()
    threads = threads if threads is not None else usable_cores()
    if threads < 1:
        raise ConfigurationError(f"threads is {threads}; expected a whole number of at least 1")
    if not 0 <= max_quality_drop <= 1:
        raise ConfigurationError(f"max_quality_drop is {max_quality_drop}; expected a share, 0 to 1")
    folder = resolve_version(Path(model))
    progress.step(f"reading {folder}")
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    dense = dense_model(folder, manifest)
    reference = dense if against is None else read_reference(str(against), manifest)
    rows = read_labelled(Path(data), dense)
    reading, notes = reading_for(dense, labelled=rows.labelled)
    planned, lacking = corruptions_for(dense, rows, reading) if corruptions else ([], [])
    with tempfile.TemporaryDirectory(prefix="lazyneuron-") as scratch:
        progress.step("making the dense graph")
        files = save(reference.model, Path(scratch) / "dense.onnx")
        sparse = open_session(folder / MODEL_FILE, threads=threads)
        graphs = Graphs(
            Model(manifest, sparse, TextEncoder.load(folder, manifest)),
            sparse,
            open_session(files[0], threads=threads, sparse=False),
        )
        progress.step("comparing", rows.count)
        outcome = run_both(graphs, rows.read(), reading, progress)
        corrupted = [_corrupted(graphs, rows, corruption, reading, progress) for corruption in planned]
        progress.step("timing")
        speed = time_both(
            graphs, lambda: (row.example for row in rows.read()), seconds=seconds, clock=clock_for(threads)
        )
        first = next(graphs.feeds(row.example for row in rows.read()))
        resident = measure_memory(files[0], folder / MODEL_FILE, first, threads, Path(scratch)) if memory else None
        dense_bytes = sum(file.stat().st_size for file in files)
    metrics = _metrics(outcome, reading)
    return EvaluationReport(
        path=folder,
        name=manifest.name,
        version=manifest.version,
        mode=manifest.mode,
        task=manifest.task,
        data=rows.name,
        examples=outcome.examples,
        labelled=rows.labelled,
        machine=this_machine(),
        threads=threads,
        metrics=metrics,
        outputs=outcome.agreement,
        sparsity=outcome.sparsity,
        speed=speed,
        dense_bytes=dense_bytes,
        sparse_bytes=sum(digest.bytes for name, digest in manifest.files.items() if name.startswith(MODEL_FILE)),
        max_quality_drop=max_quality_drop,
        verdict=judge(metrics[0], speed, limit=max_quality_drop, examples=outcome.examples),
        corruptions=tuple(corrupted),
        notes=(*notes, *lacking, *(left_out(manifest) if against is None else ()), *_notes(outcome, rows.count)),
        memory=resident,
        against=None if against is None else str(against),
    )


def _corrupted(
    graphs: Graphs, rows: LabelledSet, corruption: Corruption, reading: Reading, progress: Progress
) -> CorruptedCase:
    progress.step(f"comparing under {corruption.kind}, {corruption.amount}", rows.count)
    changed = (corruption.apply(row, place) for place, row in enumerate(rows.read()))
    outcome = run_both(graphs, changed, reading, progress)
    metrics = _metrics(outcome, reading)
    return CorruptedCase(corruption.kind, corruption.amount, metrics, outcome.sparsity.density)


def _metrics(outcome: Outcome, reading: Reading) -> tuple[Measured, ...]:
    """Return the deciding metric and the others, without neighbours where an example has no other."""
    names = [reading.deciding, *reading.others]
    if outcome.neighbours.examples == 0:
        names = [name for name in names if name != "same nearest neighbour"]
    return tuple(outcome.measured(name) for name in names)


def _notes(outcome: Outcome, count: int) -> list[str]:
    notes = []
    if outcome.examples < _FEW:
        notes.append(f"{outcome.examples} examples are few: confidence intervals are rough.")
    if outcome.examples < count:
        left = count - outcome.examples
        notes.append(f"The last {left} examples were left out: the model is fixed to a number of them at once.")
    if 0 < outcome.neighbours.examples < outcome.examples:
        notes.append(f"Nearest neighbours are of the first {NEIGHBOURS:,} examples.")
    return notes
