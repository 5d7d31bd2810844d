"""Opening a graph in ONNX Runtime by way of a file, so that its size has no limit."""

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from lazyneuron.engine.session import open_session

__all__ = ["EXTERNAL_ABOVE", "Reopened", "open_model", "save", "spill"]

EXTERNAL_ABOVE = 1 << 20
"""Models with more bytes of weights have them in a file of their own; protobuf ends at 2 GB."""
_LARGE = 1024  # bytes


def release(model: ir.Model) -> None:
    """Unmap the files of a model's weights; they are mapped again where they are read."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            with suppress(BufferError):  # somebody still looks at them
                value.const_value.release()


def spill(model: ir.Model, folder: Path) -> None:
    """Move a model's large weights to a file, which is mapped where they are read: they need no memory of their own."""
    if _weight_bytes(model) > EXTERNAL_ABOVE:
        ir.external_data.unload_from_model(model, folder, "weights.data", size_threshold_bytes=_LARGE)


def save(model: ir.Model, path: Path) -> list[Path]:
    """Write a model, large weights beside it in `NAME.data`; return the files."""
    if _weight_bytes(model) <= EXTERNAL_ABOVE:
        ir.save(ir.external_data.load_to_model(model), path)  # else it would still name the file it was read from
        return [path]
    data = f"{path.name}.data"
    ir.save(model, path, external_data=data, size_threshold_bytes=_LARGE)
    return [path, path.with_name(data)]


class Reopened:
    """A graph's session that can be closed, so that its weights leave memory, and is opened again where it runs.

    Parameters
    ----------
    path
        The ONNX file, which has to stay there.
    sparse
        Whether to register the operator library.

    Raises
    ------
    ArtifactError
        If ONNX Runtime refuses the model.
    """

    def __init__(self, path: Path, *, sparse: bool) -> None:
        self._path, self._sparse = path, sparse
        self._session: ort.InferenceSession | None = open_session(path, sparse=sparse)

    def run(self, fetches: Sequence[str], feed: Mapping[str, Any]) -> list[Any]:
        """Run the graph; ONNX Runtime's own errors pass through."""
        if self._session is None:
            self._session = open_session(self._path, sparse=self._sparse)
        values: list[Any] = self._session.run(fetches, feed)
        return values

    def close(self) -> None:
        """Free the session's memory."""
        self._session = None
        with suppress(AttributeError):  # glibc keeps what is freed between blocks that are not; others do not
            ctypes.CDLL(None).malloc_trim(0)


def open_model(model: ir.Model, path: Path, *, sparse: bool) -> Reopened:
    """Write a model to `path` and open it; weights that lie in a file beside `path` are not written again."""
    _save_beside(model, path)
    release(model)
    return Reopened(path, sparse=sparse)


def _save_beside(model: ir.Model, path: Path) -> None:
    weights = [(v, v.const_value) for v in model.graph.initializers.values() if v.const_value is not None]
    if not any(isinstance(tensor, ir.ExternalTensor) for _, tensor in weights):
        save(model, path)
        return
    # A small one in another folder's file would be named there, too.
    moved = [(v, t) for v, t in weights if not _lies_in(t, path.parent) and _is_moved(t)]
    data = f"{path.name}.data"
    written = ir.external_data.convert_tensors_to_external([t for _, t in moved], path.parent, data)
    try:
        for (value, _), tensor in zip(moved, written, strict=True):
            value.const_value = tensor
        ir.save(model, path)
    finally:
        for value, was in moved:
            value.const_value = was


def _is_moved(tensor: ir.TensorProtocol) -> bool:
    return tensor.nbytes > _LARGE or isinstance(tensor, ir.ExternalTensor)


def _lies_in(tensor: ir.TensorProtocol, folder: Path) -> bool:
    """Say whether a tensor is in a file of that folder, so that a graph there may name it."""
    return isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).parent == folder


def _weight_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
