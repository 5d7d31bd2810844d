"""Graphs that torch has exported once: kept in the cache, since that takes longer than reading them again.

What determines a graph is in its key: the checkpoint's own bytes, the head, and the code that makes it.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx_ir as ir

from lazyneuron.exporters.cache import default_cache, entry, prune
from lazyneuron.exporters.sessions import save

__all__ = ["kept_graph"]

_log = logging.getLogger(__name__)
_KIND = "graphs"
_FILE = "graph.onnx"
_MAKERS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")
_SPARE = 3  # times the checkpoint's size: what an export takes besides, and room for others


def kept_graph(make: Callable[[], ir.Model], *, digest: str, what: str, size: int, folder: Path | None) -> ir.Model:
    """Return a graph from the cache, or make it and keep it there; its weights are mapped from the cache's file.

    A cache that cannot be used (no room, no rights, damaged) is done without.

    Parameters
    ----------
    make
        Makes the graph.
    digest
        Of the checkpoint's files.
    what
        What else determines the graph: the head, and what was put on it.
    size
        The checkpoint's bytes.
    folder
        The cache; None: the default one.
    """
    cache_folder = default_cache() if folder is None else folder
    place = entry(cache_folder, _KIND, {"checkpoint": digest, "what": what, "code": _code()})
    with contextlib.suppress(Exception):  # damaged: it is made anew
        graph = _read(place)
        os.utime(place)  # for `prune`
        return graph
    graph = make()
    try:
        prune(cache_folder, _KIND)
        if shutil.disk_usage(_existing(cache_folder)).free < _SPARE * size:
            return graph
        _keep(graph, place)
        kept = _read(place)
    except OSError as error:
        _log.debug("%s: the graph is not kept: %s", place, error)
        return graph
    for value in graph.graph.initializers.values():  # torch's optimiser keeps the graph itself
        value.const_value = None
    return kept


def _read(place: Path) -> ir.Model:
    graph = ir.load(place / _FILE)
    for value in graph.graph.initializers.values():  # after a power cut, say
        if isinstance(weight := value.const_value, ir.ExternalTensor):
            size = Path(weight.path).stat().st_size
            if size < (weight.offset or 0) + (weight.length or 0):
                msg = f"{weight.path} has {size} bytes"
                raise OSError(msg)
    return graph


def _keep(graph: ir.Model, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.tmp-", dir=place.parent))
    try:
        save(graph, beside / _FILE)
        if place.exists():  # damaged, or another export was faster
            shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


@cache
def _code() -> str:
    """Return a digest of what makes graphs: the libraries' versions and the sources of this folder."""
    total = hashlib.sha256()
    for name in _MAKERS:
        total.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()
