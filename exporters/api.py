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
from lazyneuron.exporters.admission import admit, one_by_one
from lazyneuron.exporters.blocks import Ledger
from lazyneuron.exporters.candidates import certified_choices, screened
from lazyneuron.exporters.comparison import Comparison, Expected, compare_graphs
from lazyneuron.exporters.cutting import Cutter, needs_samples, weighs_losses
from lazyneuron.exporters.evaluation.api import MAX_QUALITY_DROP, evaluate
from lazyneuron.exporters.evaluation.labelled import read_labelled
from lazyneuron.exporters.evaluation.report import EvaluationReport
from lazyneuron.exporters.measure import Measured, count_held_out, measure, open_checkpoint
from lazyneuron.exporters.page import write_page
from lazyneuron.exporters.plan import Choice, block_plan
from lazyneuron.exporters.plan_file import PLAN_FILE, Plan, read_plan
from lazyneuron.exporters.planner import carried_out, lossless, make_plan, with_whole_model
from lazyneuron.exporters.predicted import may_predict, trained_predictors
from lazyneuron.exporters.probes import with_probe
from lazyneuron.exporters.progress import Progress, Silent
from lazyneuron.exporters.reports import BlockSparsity, ExportReport, SparsityReport
from lazyneuron.exporters.samples import collect_samples
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.settings import ExportSettings
from lazyneuron.exporters.sources import DenseModel
from lazyneuron.exporters.weighing import Ladder, weigh
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
    with tempfile.TemporaryDirectory(prefix="lazyneuron-") as scratch, write_errors(Path(scratch)):
        dense, ledger = open_checkpoint(str(checkpoint), None, Path(scratch), progress)
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
    rows, hidden = may_predict(settings), needs_samples(settings)
    with staged(output, version) as folder, write_errors(output):
        scratch = folder / "scratch"
        scratch.mkdir()
        dense, ledger = open_checkpoint(str(checkpoint), settings.task, scratch, progress, cache=settings.cache)
        _require_blocks(str(checkpoint), ledger)
        if settings.evaluate is not None:
            read_labelled(settings.evaluate, dense)
        if settings.top_k is None and settings.plan is None and dense.top_k is not None:
            # What `lazyneuron finetune` trained it for, without a mean for what is left out.
            settings = replace(settings, top_k=dense.top_k, recover_mean=False)
        measured = measure(
            dense,
            ledger,
            settings.calibration,
            scratch=scratch,
            size=settings.batch_size,
            hold_out=True,
            progress=progress,
            rows=rows,
            hidden=hidden,
        )
        sparsity = _sparsity(str(checkpoint), measured)
        cutter = Cutter(collect_samples(measured, scratch, progress) if hidden else None, settings)
        planned, plan = make_plan(measured, cutter, scratch, progress)
        weighs = weighs_losses(settings) and settings.calibration is not None
        if all(choice.mode == "dense" for choice in planned.values()) and not weighs:
            raise CheckpointError(f"{checkpoint}: {sparsity.verdict.sentence}")
        ladder = _ladder(planned, plan, measured, cutter, scratch, progress)
        choices, comparison = _admitted(ladder, measured, settings, scratch, progress)
        plan = carried_out(ladder.plan, {choice.block.name: choice for choice in choices.values()})
        plan = with_whole_model(measured, plan, settings, scratch, progress)
        progress.step("writing the artifact")
        made = _Made(folder, name, version, measured, choices, plan, comparison, sparsity)
        manifest, sparsity = _write(made)
        shutil.rmtree(scratch)
        _validate(folder)
        path = output / str(version)
        evaluation = _evaluated(folder, path, settings, progress)
        manifest = _finish(folder, manifest, sparsity, plan, evaluation)
    return ExportReport(path, manifest, sparsity, plan, evaluation)


def _ladder(
    planned: Mapping[str, Choice],
    plan: Plan,
    measured: Measured,
    cutter: Cutter,
    scratch: Path,
    progress: Progress,
) -> Ladder:
    """Say what may be done beyond what loses nothing: what a person asks for, or what is cheaper."""
    settings = cutter.settings
    if weighs_losses(settings) and settings.density is None:
        return weigh(planned, plan, measured, cutter, scratch, progress)
    trained = trained_predictors(planned, plan, measured, settings, progress)
    notes = tuple(
        f"{planned[key].block.name} is {planned[key].mode}: no predictor would cost less than it saves."
        for key, predictor in trained.items()
        if predictor is None and planned[key].mode != "exact"
    )
    wanted: dict[str, Choice | None] = {
        key: planned[key].predicted(predictor) if predictor else None for key, predictor in trained.items()
    }
    base = dict(planned)
    if settings.max_quality_drop is not None:
        cut = {key: choice for key, choice in planned.items() if choice.threshold > 0}
        for key, choice in cut.items():
            own = replace(settings, top_k=choice.top_k or None)
            base[key] = lossless(measured, own, "certified" if choice.mode == "certified" else "exact")[key]
        wanted |= cut
    return Ladder(one_by_one(base, wanted), plan, notes)


def _admitted(
    ladder: Ladder, measured: Measured, settings: ExportSettings, scratch: Path, progress: Progress
) -> tuple[Mapping[str, Choice], Comparison]:
    """Measure what the choices give, with as much of what loses quality as may be done."""
    int8 = settings.quantize == "int8"
    expected = Expected(measured, scratch)
    compare = partial(compare_graphs, measured, expected, scratch=scratch, int8=int8, progress=progress)
    chosen, comparison, notes = admit(ladder.rungs, settings.max_quality_drop, compare, ladder.offered)
    return chosen, replace(comparison, notes=comparison.notes + ladder.notes + notes)


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
    """Fill the folder but for the page; the manifest comes last, with the other files' digests."""
    folder, dense = made.folder, made.measured.dense
    files = save(made.comparison.graph.model, folder / MODEL_FILE)
    if dense.tokenizer is not None:
        path = folder / "tokenizer.json"
        path.write_text(dense.tokenizer.content, encoding="utf-8")
        files.append(path)
    plan = folder / PLAN_FILE
    plan.write_text(made.plan.model_dump_json(indent=2) + "\n", encoding="utf-8")
    files.append(plan)
    manifest = with_probe(_manifest(made, files), folder, dense)
    _write_manifest(folder, manifest)
    return manifest, _with_candidates(made.sparsity, made.plan, manifest)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _evaluated(folder: Path, path: Path, settings: ExportSettings, progress: Progress) -> EvaluationReport | None:
    """Judge the artifact in `folder`, which is to be at `path`."""
    if settings.evaluate is None:
        return None
    allowed = settings.max_quality_drop or MAX_QUALITY_DROP
    found = evaluate(folder, settings.evaluate, max_quality_drop=allowed, progress=progress)
    return replace(found, path=path)


def _finish(
    folder: Path, manifest: Manifest, sparsity: SparsityReport, plan: Plan, evaluation: EvaluationReport | None
) -> Manifest:
    """Write the page, and the manifest with its digest."""
    page = write_page(folder / "report.html", manifest, sparsity, plan, evaluation)
    manifest = manifest.model_copy(update={"files": {**manifest.files, page.name: digest(page)}})
    _write_manifest(folder, manifest)
    return manifest


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


def _validate(folder: Path) -> None:
    """Read the artifact back and check it, as a server would."""
    from lazyneuron.engine.model import Model
    from lazyneuron.engine.probe import self_check

    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    self_check(Model.open(folder, manifest), folder)


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
