"""The models that a server has: a folder of models, or one model."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from lazyneuron.engine.artifact import MANIFEST_FILE, versions
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.model import Model

__all__ = ["Repository", "load_repository"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repository:
    """What was found in a repository.

    Attributes
    ----------
    models
        The loaded ones by name, the highest version of each.
    broken
        Why the others could not be loaded, by folder name.
    """

    models: dict[str, Model] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def load_repository(path: Path, *, threads: int | None = None) -> Repository:
    """Load every model in a folder, or the one model that the folder is.

    A model that cannot be loaded does not stop the others.

    Raises
    ------
    ArtifactError
        If no model can be loaded.
    """
    repository = Repository()
    for folder in _model_folders(path):
        try:
            model = Model.load(folder, threads=threads)
            _add(repository, model)
        except ArtifactError as error:
            repository.broken[folder.name] = str(error)
            _log.error("%s is not served: %s", folder.name, error)
    if not repository.models:
        reasons = "; ".join(repository.broken.values())
        raise ArtifactError(reasons or f"{path}: no model in it; expected NAME/VERSION/{MANIFEST_FILE}, as from export")
    return repository


def _model_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such folder; give a model, or a folder of models")
    if (path / MANIFEST_FILE).is_file() or versions(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _add(repository: Repository, model: Model) -> None:
    if model.name in repository.models:
        raise ArtifactError(f"a second model named {model.name!r} (its manifest's name); export it under another")
    repository.models[model.name] = model
    _log.info("loaded %s version %d", model.name, model.version)
