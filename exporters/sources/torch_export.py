"""A torch module to a dense ONNX graph."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch

from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.quiet import quiet

__all__ = ["OPSET", "to_onnx"]

OPSET = 18


class _ByPosition(torch.nn.Module):
    """Takes the inputs by position, so that their order is ours, and gives the outputs as a tuple."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.lazyneuron_wrapped = module
        self.names = names

    def forward(self, *values: torch.Tensor) -> Any:  # noqa: ANN401 (whatever the module gives)
        return self.lazyneuron_wrapped(**dict(zip(self.names, values, strict=True)))


def to_onnx(
    module: torch.nn.Module,
    examples: Mapping[str, torch.Tensor],
    dynamic: Mapping[str, Mapping[int, Any]],
    outputs: tuple[str, ...] | None,
    *,
    what: str,
    consume: bool = False,
) -> ir.Model:
    """Export a module that takes tensors by keyword.

    Parameters
    ----------
    examples
        One tensor an input, in the order that the graph's inputs shall have.
    dynamic
        For each input, which axes may differ, as `torch.export` dims.
    outputs
        Their names; None: the exporter's own.
    what
        The checkpoint's name, for messages.
    consume
        Whether the module is of no further use: its weights are then freed when the graph lets go of them.

    Raises
    ------
    CheckpointError
        If torch cannot export the module.
    """
    wrapper = _ByPosition(module, tuple(examples)).eval()
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                wrapper,
                tuple(examples.values()),
                dynamo=True,
                dynamic_shapes={"values": tuple(dict(dynamic[name]) for name in examples)},
                input_names=list(examples),
                output_names=list(outputs) if outputs else None,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        raise CheckpointError(f"{what}: torch cannot export it to ONNX: {_reason(error)}") from error
    if program is None:
        raise CheckpointError(f"{what}: torch gave no ONNX graph")
    if consume:
        _take_weights(program.model, module)
    return program.model


def _take_weights(model: ir.Model, module: torch.nn.Module) -> None:
    """Let the graph alone hold the weights: torch's optimiser keeps graphs it has seen, and they the parameters."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and isinstance(tensor.raw, torch.Tensor):
            value.const_value = ir.tensor_adapters.TorchTensor(tensor.raw.detach(), name=tensor.name)
    for held in (*module.parameters(), *module.buffers()):
        held.data = torch.empty(0, dtype=held.dtype)


def _reason(error: Exception) -> str:
    """Return the innermost cause in one short line: the outer ones are advice on torch's own API."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
