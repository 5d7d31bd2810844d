"""A dense `.onnx` file."""

from pathlib import Path

import onnx_ir as ir

from lazyneuron.engine.artifact import Source
from lazyneuron.engine.errors import ArtifactError, CheckpointError
from lazyneuron.engine.onnx_locations import check_within
from lazyneuron.exporters.sources.dense import DenseModel
from lazyneuron.exporters.sources.digest import digest_files
from lazyneuron.exporters.sources.normal import normalise
from lazyneuron.exporters.sources.roles import input_specs, output_specs

__all__ = ["is_mine", "read"]


def is_mine(checkpoint: str) -> bool:
    """Tell whether the checkpoint is a `.onnx` file."""
    return checkpoint.endswith(".onnx")


def read(checkpoint: str, task: str | None, cache: Path | None = None) -> DenseModel:  # noqa: ARG001  all kinds alike
    """Read a dense `.onnx` file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, keeps weights outside its folder, or has an input or output whose shape or
        type cannot be served.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{checkpoint}: no such file")
    try:
        check_within(path)
    except ArtifactError as error:
        raise CheckpointError(str(error)) from error
    try:
        loaded = ir.load(path)
        files = _files(path, loaded)
        # An external tensor is opened when it is read; reading here names a missing or short data file.
        for value in loaded.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.numpy()
    except Exception as error:
        raise CheckpointError(f"{checkpoint}: not a readable ONNX file ({_first_line(error)})") from error
    if not loaded.graph.outputs:
        raise CheckpointError(f"{checkpoint}: not a readable ONNX file (it has no outputs)")
    model = normalise(loaded, keep_axes=True)
    return DenseModel(
        model=model,
        source=Source(kind="onnx_file", name=path.name, digest=digest_files(files)),
        inputs=input_specs(model.graph, checkpoint),
        outputs=output_specs(model.graph, checkpoint),
        task=task or "feature-extraction",
    )


def _files(path: Path, model: ir.Model) -> set[Path]:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {path, *(path.parent / t.location for t in tensors if isinstance(t, ir.ExternalTensor))}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
