"""The digits example's ViT among the models that are served, where `make demo` has trained it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lazyneuron.engine.artifact import read_manifest, resolve_version
from lazyneuron.exporters.bench.undo import dense_graph
from lazyneuron.exporters.sessions import save

__all__ = ["NAME", "example", "make", "there"]

NAME = "digits-plain"
_MODELS = Path("demo/digits/models")


def there() -> bool:
    """Return whether the example has been run."""
    return (_MODELS / NAME).is_dir()


def make(folder: Path) -> None:
    """Put its dense graph and its sparse artifact, which give the same answers, beside the other models."""
    if not there():
        raise SystemExit(f"{_MODELS / NAME} is not there; make it by `make demo`")
    source = resolve_version(_MODELS / NAME)
    save(dense_graph(source, read_manifest(source)), folder / f"{NAME}.onnx")
    shutil.copytree(source, folder / "repository" / NAME / source.name)


def example(name: str, seed: int) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ARG001  as models.example
    """Draw an image."""
    return {"image": np.random.default_rng(seed).uniform(0, 16, (1, 8, 8)).astype(np.float32)}
