"""Reading a checkpoint of any kind into a dense ONNX model. A new kind is a new file, listed here."""

from pathlib import Path
from types import ModuleType

from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources.dense import DenseModel, Tokenizer

__all__ = ["DenseModel", "Tokenizer", "read_checkpoint"]


def read_checkpoint(checkpoint: str, task: str | None = None, cache: Path | None = None) -> DenseModel:
    """Read a checkpoint into a dense ONNX model.

    Parameters
    ----------
    checkpoint
        A `.onnx` file, `FILE.py:FUNCTION`, a Hugging Face folder or a hub name.
    task
        Which head to take, where the checkpoint's kind leaves a choice.
    cache
        Where graphs that torch has exported are kept; None: the default place.

    Raises
    ------
    CheckpointError
        If it is none of these, or cannot be read.
    """
    for kind in _kinds():
        if kind.is_mine(checkpoint):
            model: DenseModel = kind.read(checkpoint, task, cache)
            return model
    raise CheckpointError(
        f"{checkpoint}: no such file or folder; "
        "expected a Hugging Face folder, a .onnx file, or FILE.py:FUNCTION that returns a torch module"
    )


def _kinds() -> tuple[ModuleType, ...]:
    from lazyneuron.exporters.sources import hugging_face, onnx_file, python_function

    return (onnx_file, python_function, hugging_face)
