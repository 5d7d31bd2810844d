"""Opening a graph in ONNX Runtime by way of a file, so that its size has no limit."""

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from lazyneuron.engine.session import open_session

__all__ = ["EXTERNAL_ABOVE", "open_model", "save"]

EXTERNAL_ABOVE = 1 << 20
"""Models with more bytes of weights have them in a file of their own; protobuf ends at 2 GB."""


def save(model: ir.Model, path: Path) -> list[Path]:
    """Write a model, large weights beside it in `NAME.data`; return the files."""
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if total <= EXTERNAL_ABOVE:
        ir.save(ir.external_data.load_to_model(model), path)  # else it would still name the file it was read from
        return [path]
    data = f"{path.name}.data"
    ir.save(model, path, external_data=data, size_threshold_bytes=1024)
    return [path, path.with_name(data)]


def open_model(model: ir.Model, path: Path, *, sparse: bool) -> ort.InferenceSession:
    """Write a model to `path` and open it."""
    save(model, path)
    return open_session(path, sparse=sparse)
