"""What each input of a graph is for, judged by its type, its axes and its name."""

import onnx_ir as ir

from lazyneuron.engine.artifact import InputSpec, OutputSpec
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources.axes import axes_of

__all__ = ["input_specs", "output_specs"]

_DTYPES = {
    ir.DataType.BOOL: "bool",
    ir.DataType.INT8: "int8",
    ir.DataType.INT16: "int16",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int64",
    ir.DataType.UINT8: "uint8",
    ir.DataType.UINT16: "uint16",
    ir.DataType.UINT32: "uint32",
    ir.DataType.UINT64: "uint64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
}


_KEEPING = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
"""Operators that leave the ids what they are."""


def input_specs(graph: ir.Graph, what: str, *, pad_token: int = 0) -> tuple[InputSpec, ...]:
    """Describe a graph's inputs.

    An input with `mask` in its name is a mask. Whole numbers on two axes are tokens. What shares all its ragged axes
    with masks can be padded, for then the model is told which rows are padding.

    Raises
    ------
    CheckpointError
        If an input's type or rank cannot be served.
    """
    roles = {value.name: _role(value) for value in graph.inputs}
    masked = {axis for v in graph.inputs if roles[v.name] == "mask" for axis in axes_of(v)[1:] if isinstance(axis, str)}
    specs = []
    for value in graph.inputs:
        shape = axes_of(value)
        ragged = {axis for axis in shape[1:] if isinstance(axis, str)}
        role = roles[value.name]
        pad = float(pad_token) if role == "tokens" else 0.0
        spec = InputSpec.model_validate(
            {
                "name": value.name,
                "dtype": _dtype(value, "input", what),
                "shape": shape,
                "role": role,
                "pad": pad if ragged <= masked else None,
                **_range(value, role),
            }
        )
        specs.append(spec)
    return tuple(specs)


def output_specs(graph: ir.Graph, what: str) -> tuple[OutputSpec, ...]:
    """Describe a graph's outputs.

    Raises
    ------
    CheckpointError
        If an output's type or rank cannot be served.
    """
    return tuple(
        OutputSpec.model_validate({"name": v.name, "dtype": _dtype(v, "output", what), "shape": axes_of(v)})
        for v in graph.outputs
    )


def _role(value: ir.Value) -> str:
    name = (value.name or "").lower()
    if "mask" in name:
        return "mask"
    if "token_type" in name or "segment_ids" in name:
        return "token_types"
    if value.dtype in {ir.DataType.INT32, ir.DataType.INT64} and len(value.shape or ()) == 2:
        return "tokens"
    return "data"


def _range(value: ir.Value, role: str) -> dict[str, float]:
    """Return the ids that a token input may have: those of the table that it is looked up in."""
    if role not in {"tokens", "token_types"}:
        return {}
    tables = [table for node, _ in value.uses() if (table := _table(node, value)) is not None]
    return {"minimum": 0, "maximum": min(tables) - 1} if tables else {}


def _table(node: ir.Node, ids: ir.Value) -> int | None:
    """Return the rows of the constant table in which a node looks `ids` up; None if it does something else."""
    if node.op_type in _KEEPING and node.inputs[0] is ids:
        found = [t for user, _ in node.outputs[0].uses() if (t := _table(user, node.outputs[0])) is not None]
        return min(found, default=None)
    table = node.inputs[0]
    if node.op_type != "Gather" or table is None or node.inputs[1] is not ids or (node.attributes.get_int("axis") or 0):
        return None
    tensor = ir.convenience.get_const_tensor(table)
    return None if tensor is None or len(tensor.shape) != 2 else int(tensor.shape.numpy()[0])


def _dtype(value: ir.Value, kind: str, what: str) -> str:
    if value.shape is None:
        raise CheckpointError(f"{what}: {kind} {value.name} has no known rank; export it with its shape")
    dtype = value.dtype
    if dtype not in _DTYPES:
        raise CheckpointError(f"{what}: {kind} {value.name} is {dtype}; expected one of {', '.join(_DTYPES.values())}")
    return _DTYPES[dtype]
