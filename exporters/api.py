"""`inspect` and `export`: the steps from a checkpoint to a report and to an artifact."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from lazyneuron.engine.cost_files import load_costs
from lazyneuron.engine.errors import CheckpointError, ConfigurationError
from lazyneuron.exporters.admission import admit
from lazyneuron.exporters.blocks import Ledger
from lazyneuron.exporters.candidates import certified_choices, screened
from lazyneuron.exporters.comparison import Comparison, compare_graphs
from lazyneuron.exporters.measure import Measured, count_held_out, measure, open_checkpoint
from lazyneuron.exporters.page import write_page
from lazyneuron.exporters.plan import Choice, block_plan
from lazyneuron.exporters.plan_file import PLAN_FILE, Plan, read_plan
from lazyneuron.exporters.planner import make_plan, with_whole_model
from lazyneuron.exporters.predicted import Offers, may_predict, offer_predictors
from lazyneuron.exporters.progress import Progress, Silent
from lazyneuron.exporters.reports import BlockSparsity, ExportReport, SparsityReport
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.settings import ExportSettings
from lazyneuron.exporters.sources import DenseModel
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
            hold_out=True,
            progress=progress,
        )
        held_out = count_held_out(measured, progress)
        # The screen is fitted before the held-out rows are counted, too.
        candidates = screened(measured, certified_choices(measured), Path(scratch), progress)
    for counts, more in zip(measured.counts, held_out, strict=True):
        counts.merge(more)
    return _sparsity(str(checkpoint), measured, candidates)


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
    if settings.plan is not None:  # before any work
        read_plan(settings.plan)
    if settings.costs is not None:
        load_costs(settings.costs)
    output = Path(output)
    name = _model_name(settings.name or output.resolve().name)
    version = free_version(output, settings.version)
    progress = progress or Silent()
    dense, ledger = open_checkpoint(str(checkpoint), settings.task, progress)
    _require_blocks(str(checkpoint), ledger)
    if settings.top_k is None and settings.plan is None and dense.top_k is not None:
        settings = replace(settings, top_k=dense.top_k)  # what `lazyneuron finetune` trained it for
    rows = may_predict(settings)
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
            rows=rows,
        )
        sparsity = _sparsity(str(checkpoint), measured)
        planned, plan = make_plan(measured, settings, scratch, progress)
        if all(choice.mode == "dense" for choice in planned.values()):
            raise CheckpointError(f"{checkpoint}: {sparsity.verdict.sentence}")
        offers = offer_predictors(planned, plan, measured, settings, progress)
        choices, comparison = _compared(planned, offers, measured, settings, scratch, progress)
        plan = offers.plan.carried_out({choice.block.name: choice.mode for choice in choices.values()})
        plan = with_whole_model(measured, plan, settings, scratch, progress)
        progress.step("writing the artifact")
        made = _Made(folder, name, version, measured, choices, plan, comparison, sparsity)
        manifest, sparsity = _write(made)
        shutil.rmtree(scratch)
        _validate(folder)
    return ExportReport(output / str(version), manifest, sparsity, plan)


def _compared(
    planned: Mapping[str, Choice],
    offers: Offers,
    measured: Measured,
    settings: ExportSettings,
    scratch: Path,
    progress: Progress,
) -> tuple[Mapping[str, Choice], Comparison]:
    """Measure what the choices give, with as many of the predictors that they are offered as may be admitted."""
    compare = partial(
        compare_graphs,
        measured,
        scratch=scratch,
        capped=_capped(planned),
        int8=settings.quantize == "int8",
        progress=progress,
    )
    chosen, comparison, notes = admit(planned, offers.predictors, settings.max_quality_drop, compare)
    return chosen, replace(comparison, notes=comparison.notes + offers.notes + notes)


def _mode(choices: Mapping[str, Choice]) -> Literal["exact", "certified", "predictor"]:
    """Return the mode of the whole: that of the block which skips most."""
    modes = {choice.mode for choice in choices.values()}
    return "predictor" if "predictor" in modes else "certified" if "certified" in modes else "exact"


@dataclass(frozen=True, slots=True)
class _Made:
    """Everything that goes into an artifact."""

    folder: Path
    name: str
    version: int
    measured: Measured
    choices: Mapping[str, Choice]
    plan: Plan
    comparison: Comparison
    sparsity: SparsityReport


def _write(made: _Made) -> tuple[Manifest, SparsityReport]:
    """Fill the folder; the manifest comes last, with the other files' digests."""
    folder, dense = made.folder, made.measured.dense
    files = save(made.comparison.graph.model, folder / MODEL_FILE)
    if dense.tokenizer is not None:
        path = folder / "tokenizer.json"
        path.write_text(dense.tokenizer.content, encoding="utf-8")
        files.append(path)
    plan = folder / PLAN_FILE
    plan.write_text(made.plan.model_dump_json(indent=2) + "\n", encoding="utf-8")
    files.append(plan)
    manifest = _manifest(made, files)
    sparsity = _with_candidates(made.sparsity, made.plan, manifest)
    page = write_page(folder / "report.html", manifest, sparsity, made.plan)
    manifest = manifest.model_copy(update={"files": {**manifest.files, page.name: digest(page)}})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest, sparsity


def _manifest(made: _Made, files: list[Path]) -> Manifest:
    dense, graph = made.measured.dense, made.comparison.graph
    return Manifest(
        format_version=1,
        name=made.name,
        version=made.version,
        created_by=f"lazyneuron {__version__}",
        source=dense.source,
        task=dense.task,
        mode=_mode(made.choices),
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
        notes=(*_plan_notes(made), *made.comparison.notes, *dense.notes),
        tokenizer=_tokenizer_spec(dense),
        image=dense.image,
        labels=dense.labels,
        problem=dense.problem,
    )


def _tokenizer_spec(dense: DenseModel) -> TokenizerSpec | None:
    made = dense.tokenizer
    if made is None:
        return None
    return TokenizerSpec(
        max_length=made.max_length,
        truncate=made.truncate,
        mask_token=made.mask_token,
        decoder_start=made.decoder_start,
    )


def _plan_notes(made: _Made) -> Iterator[str]:
    """Say which blocks were not touched, and why."""
    dense = {block.name: block.alternatives for block in made.plan.blocks if block.mode == "dense"}
    for block in made.sparsity.blocks:
        if block.name not in dense:
            continue
        why = f"its {block.activation} leaves too few at zero to gain"
        if dense[block.name]:
            why = "nothing that was weighed is predicted to be quicker"
        yield f"{block.name} stays dense and is not counted: {block.density.mean:.1%} of its neurons are active; {why}."


def _capped(choices: Mapping[str, Choice]) -> bool:
    """Say whether a person cut off more than the model itself does."""
    return any(choice.top_k != choice.block.top_k for choice in choices.values())


def _validate(folder: Path) -> None:
    """Read the artifact back as a server would."""
    from lazyneuron.engine.model import Model

    verify_files(folder, read_manifest(folder))
    Model.load(folder, verify=False)


def _sparsity(checkpoint: str, measured: Measured, candidates: Mapping[str, float] | None = None) -> SparsityReport:
    blocks = zip(measured.ledger.blocks.items(), measured.counts, strict=True)
    return SparsityReport(
        checkpoint=checkpoint,
        blocks=tuple(BlockSparsity.of(block, counts, (candidates or {}).get(key)) for (key, block), counts in blocks),
        skipped=tuple(measured.ledger.skipped.values()),
        calibration=measured.calibration,
    )


def _with_candidates(sparsity: SparsityReport, plan: Plan, manifest: Manifest) -> SparsityReport:
    """Add the certified screen's candidates, where it was weighed or is what was chosen."""
    known = {block.name: block.candidates for block in manifest.blocks if block.mode == "certified"}
    weighed = ((block.name, other) for block in plan.blocks for other in block.alternatives)
    known |= {name: other.candidates for name, other in weighed if other.mode == "certified"}
    blocks = tuple(replace(block, candidates=known.get(block.name)) for block in sparsity.blocks)
    return replace(sparsity, blocks=blocks)


def _require_blocks(checkpoint: str, ledger: Ledger) -> None:
    if ledger.blocks:
        return
    skipped = next(iter(ledger.skipped.values()), None)
    why = f"; {len(ledger.skipped)} looked like one, the first, {skipped.name}: {skipped.reason}" if skipped else ""
    raise CheckpointError(f"{checkpoint}: no MLP block, an activation between two projections, in it{why}")


def _model_name(name: str) -> str:

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise ConfigurationError(f"{name!r} cannot be a model's name; use letters, digits, '.', '_' and '-' (--name)")
    return name
