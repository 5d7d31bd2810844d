"""`inspect` and `export`: the steps from a checkpoint to a report and to an artifact."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyneuron import __version__
from lazyneuron.engine.artifact import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    TokenizerSpec,
    digest,
    read_manifest,
    verify_files,
)
from lazyneuron.engine.errors import CheckpointError, ConfigurationError
from lazyneuron.exporters.blocks import Ledger
from lazyneuron.exporters.calibration import density
from lazyneuron.exporters.comparison import Comparison, compare_graphs
from lazyneuron.exporters.measure import Measured, measure, open_checkpoint
from lazyneuron.exporters.page import write_page
from lazyneuron.exporters.plan import Choice, block_plan, choose
from lazyneuron.exporters.progress import Progress, Silent
from lazyneuron.exporters.reports import BlockSparsity, ExportReport, SparsityReport
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.settings import ExportSettings
from lazyneuron.exporters.writing import free_version, staged, write_errors

__all__ = ["export", "inspect"]


def inspect(
    checkpoint: str | Path,
    calibration: str | Path | None = None,
    *,
    progress: Progress | None = None,
    batch_size: int = 8,
) -> SparsityReport:
    """Measure how sparse a checkpoint is.

    Parameters
    ----------
    checkpoint
        A Hugging Face folder or hub name, a `.onnx` file, or `FILE.py:FUNCTION`.
    calibration
        JSON Lines or `.npz`; None: random input, whose densities say little about real input.
    progress
        Told how far the work is.
    batch_size
        Examples run at once.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read.
    CalibrationError
        If the calibration data does not fit it.
    """
    settings = ExportSettings(calibration=Path(calibration) if calibration else None, batch_size=batch_size)
    progress = progress or Silent()
    dense, ledger = open_checkpoint(str(checkpoint), None, progress)
    with tempfile.TemporaryDirectory(prefix="lazyneuron-") as scratch, write_errors(Path(scratch)):
        measured = measure(
            dense,
            ledger,
            settings.calibration,
            scratch=Path(scratch),
            size=batch_size,
            hold_out=False,
            progress=progress,
        )
    return _sparsity(str(checkpoint), measured)


def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401
) -> ExportReport:
    """Turn a checkpoint into a sparse artifact, `output/VERSION`.

    Parameters
    ----------
    checkpoint
        A Hugging Face folder or hub name, a `.onnx` file, or `FILE.py:FUNCTION`.
    output
        The model's folder; it is made if it is not there.
    progress
        Told how far the work is.
    **options
        The fields of `ExportSettings`.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read, or has no block that can be made sparse.
    CalibrationError
        If the calibration data does not fit it.
    ConfigurationError
        If an option is wrong.
    ArtifactError
        If the artifact cannot be written.
    """
    settings = ExportSettings.from_options(options)
    output = Path(output)
    name = _model_name(settings.name or output.resolve().name)
    version = free_version(output, settings.version)
    progress = progress or Silent()
    dense, ledger = open_checkpoint(str(checkpoint), settings.task, progress)
    _require_blocks(str(checkpoint), ledger)
    with staged(output, version) as folder, write_errors(output):
        scratch = folder / "scratch"
        scratch.mkdir()
        measured = measure(
            dense,
            ledger,
            settings.calibration,
            scratch=scratch,
            size=settings.batch_size,
            hold_out=True,
            progress=progress,
        )
        choices = dict(zip(ledger.blocks, choose(list(ledger.blocks.values()), measured.counts, settings), strict=True))
        comparison = compare_graphs(
            measured,
            choices,
            scratch,
            capped=settings.top_k is not None,
            int8=settings.quantize == "int8",
            progress=progress,
        )
        progress.step("writing the artifact")
        sparsity = _sparsity(str(checkpoint), measured)
        made = _Made(folder, name, version, measured, choices, comparison, sparsity)
        manifest = _write(made)
        shutil.rmtree(scratch)
        _validate(folder)
    return ExportReport(output / str(version), manifest, sparsity)


@dataclass(frozen=True, slots=True)
class _Made:
    """Everything that goes into an artifact."""

    folder: Path
    name: str
    version: int
    measured: Measured
    choices: dict[str, Choice]
    comparison: Comparison
    sparsity: SparsityReport


def _write(made: _Made) -> Manifest:
    """Fill the folder; the manifest comes last, with the other files' digests."""
    folder, dense = made.folder, made.measured.dense
    files = save(made.comparison.graph.model, folder / MODEL_FILE)
    if dense.tokenizer is not None:
        path = folder / "tokenizer.json"
        path.write_text(dense.tokenizer.content, encoding="utf-8")
        files.append(path)
    manifest = _manifest(made, files)
    page = write_page(folder / "report.html", manifest, made.sparsity)
    manifest = manifest.model_copy(update={"files": {**manifest.files, page.name: digest(page)}})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _manifest(made: _Made, files: list[Path]) -> Manifest:
    dense, graph = made.measured.dense, made.comparison.graph
    tokenizer = TokenizerSpec(max_length=dense.tokenizer.max_length) if dense.tokenizer else None
    return Manifest(
        format_version=1,
        name=made.name,
        version=made.version,
        created_by=f"lazyneuron {__version__}",
        source=dense.source,
        task=dense.task,
        mode="certified" if any(c.mode == "certified" for c in made.choices.values()) else "exact",
        quantize=made.comparison.quantize,
        files={path.name: digest(path) for path in files},
        inputs=dense.inputs,
        outputs=dense.outputs,
        budget_input=graph.budget_input,
        max_lengths=dict(dense.max_lengths),
        blocks=tuple(
            block_plan(choice, active, candidates, share)
            for choice, active, candidates, share in zip(
                made.choices.values(),
                graph.active_outputs,
                graph.candidates_outputs,
                made.comparison.candidates,
                strict=True,
            )
        ),
        quality=made.comparison.quality,
        calibration=made.measured.calibration,
        notes=made.comparison.notes,
        tokenizer=tokenizer,
        labels=dense.labels,
    )


def _validate(folder: Path) -> None:
    """Read the artifact back as a server would."""
    from lazyneuron.engine.model import Model

    verify_files(folder, read_manifest(folder))
    Model.load(folder, verify=False)


def _sparsity(checkpoint: str, measured: Measured) -> SparsityReport:
    blocks = zip(measured.ledger.blocks.values(), measured.counts, strict=True)
    return SparsityReport(
        checkpoint=checkpoint,
        blocks=tuple(BlockSparsity.of(block, density(counts), counts.histogram) for block, counts in blocks),
        skipped=tuple(measured.ledger.skipped.values()),
        calibration=measured.calibration,
    )


def _require_blocks(checkpoint: str, ledger: Ledger) -> None:
    if ledger.blocks:
        return
    skipped = next(iter(ledger.skipped.values()), None)
    why = f"; {len(ledger.skipped)} looked like one, the first, {skipped.name}: {skipped.reason}" if skipped else ""
    raise CheckpointError(f"{checkpoint}: no MLP block with a ReLU between two projections in it{why}")


def _model_name(name: str) -> str:

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise ConfigurationError(f"{name!r} cannot be a model's name; use letters, digits, '.', '_' and '-' (--name)")
    return name
