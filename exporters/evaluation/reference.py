"""The dense model that an artifact is judged against: its own graph, or another that a person names."""

from pathlib import Path

from lazyneuron.engine.artifact import MANIFEST_FILE, Axes, Manifest, read_manifest, resolve_version, versions
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.bench.undo import dense_model
from lazyneuron.exporters.sources import DenseModel, read_checkpoint

__all__ = ["read_reference"]


def read_reference(against: str, manifest: Manifest) -> DenseModel:
    """Read the dense model of a checkpoint, or of another artifact.

    Parameters
    ----------
    against
        A checkpoint in any form that `export` takes, a model's folder, or a version's.
    manifest
        Of the artifact that is judged; the other model has to have its inputs and outputs.

    Raises
    ------
    CheckpointError, ArtifactError
        If it cannot be read.
    ConfigurationError
        If its inputs or outputs are others.
    """
    path = Path(against)
    if path.is_dir() and ((path / MANIFEST_FILE).is_file() or versions(path)):
        folder = resolve_version(path)
        model = dense_model(folder, read_manifest(folder))
    else:
        model = read_checkpoint(against, manifest.task)
    for what in ("inputs", "outputs"):
        got = {s.name: (s.dtype, _fixed(s.shape)) for s in getattr(model, what)}
        expected = {s.name: (s.dtype, _fixed(s.shape)) for s in getattr(manifest, what)}
        if got != expected:
            raise ConfigurationError(
                f"{against}: its {what} are {_told(got)}; expected {manifest.name}'s {_told(expected)}"
            )
    return model


def _fixed(shape: Axes) -> tuple[int | None, ...]:
    """Return the shape without the names of its free axes."""
    return tuple(axis if isinstance(axis, int) else None for axis in shape)


def _told(tensors: dict[str, tuple[str, tuple[int | None, ...]]]) -> str:
    return ", ".join(
        f"{name} {dtype} [{', '.join('?' if n is None else str(n) for n in shape)}]"
        for name, (dtype, shape) in tensors.items()
    )
