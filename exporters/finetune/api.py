"""`finetune`: a checkpoint in, a sparser one of the same kind out."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.finetune.data import Data, read_data
from lazyneuron.exporters.finetune.measuring import measure
from lazyneuron.exporters.finetune.models import Models, open_models, stored_type, write_checkpoint
from lazyneuron.exporters.finetune.settings import FinetuneSettings
from lazyneuron.exporters.finetune.state import read_state, state_file
from lazyneuron.exporters.finetune.training import Training
from lazyneuron.exporters.progress import Progress, Silent
from lazyneuron.exporters.sources.digest import digest_files
from lazyneuron.exporters.sources.hugging_face import open_folder
from lazyneuron.exporters.writing import write_errors

__all__ = ["FinetuneReport", "finetune"]


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """What a run has made.

    Attributes
    ----------
    path
        The new checkpoint.
    task
        What the model is for.
    figures
        On the held-out examples, for `dense`, `untrained` (sparse) and `tuned`: distance, agreement, perplexity and
        density, as `Figures` says.
    examples, held_out
        How many were trained on, counting each once, and measured on.
    steps, minutes, cpu_minutes
        What the training took.
    history
        What was measured meanwhile, on a part of the held-out examples.
    """

    path: Path
    task: str
    figures: Mapping[str, Mapping[str, Any]]
    examples: int
    held_out: int
    steps: int
    minutes: float
    cpu_minutes: float
    history: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """Return the report as it is written to JSON."""
        return asdict(self) | {"path": str(self.path)}


def finetune(
    checkpoint: str | Path,
    output: str | Path,
    *,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401
) -> FinetuneReport:
    """Train a Hugging Face checkpoint to be sparse, by distillation from itself.

    Parameters
    ----------
    checkpoint
        A Hugging Face folder or hub name.
    output
        The folder to write, which must not be there; it is a checkpoint of the same kind.
    progress
        Told how far the work is.
    **options
        The fields of `FinetuneSettings`; `data` and one of `top_k` and `relufy` are needed.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read, or has no MLP block that can be trained.
    CalibrationError
        If the data cannot be read or does not fit it.
    ConfigurationError
        If an option is wrong, or the training diverges.
    ArtifactError
        If the output cannot be written.
    """
    settings = FinetuneSettings.from_options(options)
    output, progress = Path(output), progress or Silent()
    state = state_file(output)
    if output.exists():
        raise ConfigurationError(f"{output}: it is there already; choose another --output")
    if state.exists() and not settings.resume:
        raise ConfigurationError(f"{state}: the state of an interrupted run; go on with --resume, or delete it")
    progress.step(f"reading {checkpoint}")
    models = open_models(str(checkpoint), settings)
    progress.step("reading the data")
    data = read_data(models, settings)
    fingerprint = _fingerprint(models, settings)
    training = Training(models, data, settings, state, fingerprint)
    with write_errors(output):
        if settings.resume and state.exists():
            training.restore(read_state(state, fingerprint))
        if not training.before:
            training.before = _before(models, data, settings, progress)
        training.run(progress)
        models.student.to(stored_type(models.opened.folder)).float()  # measured as they are written
        progress.step("measuring the tuned model")
        tuned = measure(models.student, models, data, data.held_out, settings.batch, settings.seed)
        report = FinetuneReport(
            path=output,
            task=models.opened.head.task,
            figures=training.before | {"tuned": tuned.document()},
            examples=len(data.train),
            held_out=len(data.held_out),
            steps=training.step,
            minutes=training.seconds / 60,
            cpu_minutes=training.cpu_seconds / 60,
            history=training.history,
        )
        progress.step("writing the checkpoint")
        with _beside(output) as folder:
            write_checkpoint(models, settings, folder, _record(report, settings))
    state.unlink(missing_ok=True)
    return report


def _before(models: Models, data: Data, settings: FinetuneSettings, progress: Progress) -> dict[str, dict[str, Any]]:
    """Measure the dense model, and the sparse one before training."""
    progress.step("measuring the dense model")
    dense = measure(models.teacher, models, data, data.held_out, settings.batch, settings.seed).document()
    progress.step("measuring the sparse model before training")
    untrained = measure(models.student, models, data, data.held_out, settings.batch, settings.seed)
    return {"dense": dense, "untrained": untrained.document()}


def _fingerprint(models: Models, settings: FinetuneSettings) -> dict[str, Any]:
    """Return what must be the same for a run to go on; more steps or minutes may be given."""
    options = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(settings).items()
        if key not in {"resume", "steps", "minutes", "save_every", "data", "validation", "teacher"}
    }
    files = [*settings.data, *([] if settings.validation is None else [settings.validation])]
    return options | {
        "checkpoint": models.opened.digest,
        "teacher": None if settings.teacher is None else open_folder(settings.teacher, None).digest,
        "data": [digest_files([path]) for path in files],
    }


def _record(report: FinetuneReport, settings: FinetuneSettings) -> dict[str, Any]:
    document = report.document()
    del document["path"]  # where it was written first; it may be moved
    options = asdict(settings) | {"data": [path.name for path in settings.data]}
    options["validation"] = None if settings.validation is None else settings.validation.name
    options["teacher"] = None if settings.teacher is None else Path(settings.teacher).name
    return document | {"options": options}


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `output` when all is well; else nothing of it is left."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.tmp-", dir=output.parent))
    try:
        folder.chmod(0o755)
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        folder.rename(output)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(folder, ignore_errors=True)
        raise
