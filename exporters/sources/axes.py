"""Names for symbolic axes: `batch` for axis 0, and one name a length that may differ between requests."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from lazyneuron.engine.artifact import BATCH_AXIS, Axes

__all__ = ["Axis", "Group", "axes_of", "name_axes"]

Axis = tuple[str, int]
"""An axis of an input, by the input's name and the axis's place."""
Group = Sequence[Axis]

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_GENERATED = re.compile(r"s\d+|u\d+|unk_*\d+|.*_axis_\d+")
"""What torch and ONNX Runtime call an axis that nobody named."""


def name_axes(
    graph: ir.Graph, *, keep: bool, agreeing: Iterable[Group] = (), named: Mapping[Axis, str] = MappingProxyType({})
) -> None:
    """Rename the symbolic axes of every value in the graph.

    Axis 0 of every input becomes `batch`. Another axis keeps its name where `keep` says so and it has one; else it is
    `sequence` if the model has one such axis, and is named after the input that has it first if there are several.

    Parameters
    ----------
    keep
        Whether the axes' names are a person's.
    agreeing
        Groups of axes whose lengths must agree though the graph has them by several names.
    named
        Axes that have a name given; those of one name agree.
    """
    symbols = _name_unnamed(graph)
    same = {symbols[axis]: symbols[group[0]] for group in agreeing for axis in group if axis in symbols}
    names = {symbol: BATCH_AXIS for (_, axis), symbol in symbols.items() if axis == 0}
    first: dict[str, str] = {}
    for (name, axis), symbol in symbols.items():
        if symbol not in names:
            first.setdefault(same.get(symbol, symbol), f"{name}_length" if axis == 1 else f"{name}_axis_{axis}")
    names |= {symbols[axis]: name for axis, name in named.items() if symbols.get(axis) not in {None, *names}}
    for symbol in {*symbols.values()} - {*names}:
        leader = same.get(symbol, symbol)
        kept = keep and not _GENERATED.fullmatch(leader)
        names[symbol] = leader if kept else "sequence" if len(first) == 1 else first[leader]
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape([_rename(dim, names) for dim in value.shape])


def _name_unnamed(graph: ir.Graph) -> dict[tuple[str, int], str]:
    """Give each symbolic axis of the inputs that has no name one; return all by input and axis."""
    symbols = {}
    for value in graph.inputs:
        shape = list(value.shape or ())
        for axis, dim in enumerate(shape):
            if not isinstance(dim, int):
                symbol = dim.value or f"{value.name}_axis_{axis}"
                shape[axis] = ir.SymbolicDim(symbol)
                symbols[str(value.name), axis] = symbol
        value.shape = ir.Shape(shape)
    return symbols


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
