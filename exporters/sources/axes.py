"""Names for symbolic axes: `batch` for axis 0, and one name a length that may differ between requests."""

import re

import onnx_ir as ir

from lazyneuron.engine.artifact import BATCH_AXIS, Axes

__all__ = ["axes_of", "name_axes"]

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_GENERATED = re.compile(r"s\d+|u\d+|unk_*\d+|.*_axis_\d+")
"""What torch and ONNX Runtime call an axis that nobody named."""


def name_axes(graph: ir.Graph, *, keep: bool) -> None:
    """Rename the symbolic axes of every value in the graph.

    Axis 0 of every input becomes `batch`. Another axis keeps its name where `keep` says so and it has one; else it is
    `sequence` if the model has one such axis, and is named after the input that has it first if there are several.
    """
    names: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for value in graph.inputs:
        shape = list(value.shape or ())
        for axis, dim in enumerate(shape):
            if isinstance(dim, int):
                continue
            symbol = dim.value or f"{value.name}_axis_{axis}"
            shape[axis] = ir.SymbolicDim(symbol)
            if axis == 0:
                names[symbol] = BATCH_AXIS
            elif symbol not in names and symbol not in dict(others):
                others.append((symbol, f"{value.name}_length" if axis == 1 else f"{value.name}_axis_{axis}"))
        value.shape = ir.Shape(shape)
    for symbol, name in others:
        if symbol not in names:
            kept = keep and not _GENERATED.fullmatch(symbol)
            names[symbol] = symbol if kept else "sequence" if len(others) == 1 else name
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape([_rename(dim, names) for dim in value.shape])


def axes_of(value: ir.Value) -> Axes:
    """Return a value's axes; one of unknown length is named after the value."""
    if value.shape is None:
        return ()
    return tuple(
        dim if isinstance(dim, int) else dim.value or f"{value.name}_axis_{axis}"
        for axis, dim in enumerate(value.shape)
    )


def _rename(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(_SYMBOL.sub(lambda match: names.get(match[0], match[0]), dim.value))


def _values(graph: ir.Graph) -> list[ir.Value]:
    # An initializer's shape is its data's.
    return [*graph.inputs, *(output for node in graph for output in node.outputs)]
