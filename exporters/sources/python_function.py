"""`FILE.py:FUNCTION`, which returns a torch module and example inputs."""

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from lazyneuron.engine.artifact import Source
from lazyneuron.engine.errors import CheckpointError, one_line
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources.dense import DenseModel
from lazyneuron.exporters.sources.normal import normalise
from lazyneuron.exporters.sources.probe import free_axes
from lazyneuron.exporters.sources.roles import input_specs, output_specs
from lazyneuron.exporters.sources.torch_export import to_onnx

__all__ = ["is_mine", "read"]


def is_mine(checkpoint: str) -> bool:
    """Tell whether the checkpoint has the form `FILE.py:FUNCTION`."""
    file, _, function = checkpoint.rpartition(":")
    return (file.endswith(".py") and function.isidentifier()) or checkpoint.endswith(".py")


def read(checkpoint: str, task: str | None, cache: Path | None = None) -> DenseModel:  # noqa: ARG001  all kinds alike
    """Call the function and export the module it returns.

    Every axis is tried at another length. The module is called with the example inputs by keyword, and gives a
    tensor, a sequence of tensors, or a dict of them, whose keys name the outputs.

    Raises
    ------
    CheckpointError
        If the file or function is missing, fails, returns something else, or cannot be exported.
    """
    file, _, function = checkpoint.rpartition(":")
    if not file:
        raise CheckpointError(f"{checkpoint}: no function named; expected FILE.py:FUNCTION")
    module, examples = _call(Path(file), function, checkpoint)
    examples = _two_examples(examples)
    outputs = _output_names(module, examples, checkpoint)
    groups = free_axes(module, examples)
    free = {(name, 0) for name in examples} | {axis for group in groups for axis in group}
    dynamic = {name: {axis: torch.export.Dim.AUTO for n, axis in free if n == name} for name in examples}
    graph = to_onnx(_AsTuple(module), examples, dynamic, outputs, what=checkpoint)
    model = normalise(graph, keep_axes=False, agreeing=groups)
    return DenseModel(
        model=model,
        source=Source(kind="python_function", name=f"{Path(file).name}:{function}", digest=_digest(Path(file), module)),
        inputs=input_specs(model.graph, checkpoint),
        outputs=output_specs(model.graph, checkpoint),
        task=task or "feature-extraction",
        length=max((t.shape[1] for t in examples.values() if t.ndim > 1), default=16),
    )


class _AsTuple(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.lazyneuron_wrapped = module

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _as_tuple(self.lazyneuron_wrapped(**inputs))


def _as_tuple(answer: Any) -> tuple[torch.Tensor, ...]:  # noqa: ANN401 (whatever the user's module gives)
    if isinstance(answer, torch.Tensor):
        return (answer,)
    return tuple(answer.values() if isinstance(answer, Mapping) else answer)


def _call(path: Path, function: str, checkpoint: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"_lazyneuron_checkpoint_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as Python does for a script, so that it may import its neighbours
    try:
        sys.modules[spec.name] = loaded
        # What the file prints is for the person, and standard output is for our own answer.
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(loaded)
            if not callable(getattr(loaded, function, None)):
                raise CheckpointError(f"{path}: no function {function} in it")
            returned = getattr(loaded, function)()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{checkpoint}: it failed: {type(error).__name__}: {one_line(error, 300)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return _checked(returned, checkpoint)


def _checked(returned: Any, checkpoint: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:  # noqa: ANN401 (any)
    expected = "expected (torch.nn.Module, {input name: tensor})"
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], torch.nn.Module)):
        raise CheckpointError(f"{checkpoint}: it returned {type(returned).__name__}; {expected}")
    module, examples = returned
    if not (isinstance(examples, Mapping) and examples):
        raise CheckpointError(f"{checkpoint}: its example inputs are {type(examples).__name__}; {expected}")
    for name, tensor in examples.items():
        if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0:
            raise CheckpointError(f"{checkpoint}: example input {name} is not a tensor with a batch axis; {expected}")
    return module.eval(), dict(examples)


def _two_examples(examples: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Double a batch of one: torch.export takes an axis of length 1 for fixed."""
    if all(t.shape[0] == 1 for t in examples.values()):
        return {name: torch.cat([t, t]) for name, t in examples.items()}
    return examples


def _output_names(module: torch.nn.Module, examples: dict[str, torch.Tensor], checkpoint: str) -> tuple[str, ...]:
    try:
        with torch.no_grad(), quiet():
            answer = module(**examples)
        tensors = _as_tuple(answer)
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint}: its module fails on its example inputs: {type(error).__name__}: {one_line(error, 300)}"
        ) from error
    if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise CheckpointError(f"{checkpoint}: its module gives {type(answer).__name__}; expected tensors")
    if isinstance(answer, Mapping):
        return tuple(str(name) for name in answer)
    return ("output",) if len(tensors) == 1 else tuple(f"output_{i}" for i in range(len(tensors)))


def _digest(path: Path, module: torch.nn.Module) -> str:
    """Digest the file and the module's weights, which may come from elsewhere."""
    total = hashlib.sha256(path.read_bytes())
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{total.hexdigest()}"
