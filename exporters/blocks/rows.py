"""Which axes a block's rows have, also when the graph has flattened them to one."""

import onnx_ir as ir

from lazyneuron.engine.artifact import BATCH_AXIS, Axes
from lazyneuron.exporters.sources.axes import axes_of

__all__ = ["rows_of"]

_ROW_WISE = {"LayerNormalization", "SkipLayerNormalization", "RMSNormalization", "Cast", "Identity", "Dropout", "Relu"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}
_DEPTH = 32


def rows_of(hidden: ir.Value, x: ir.Value) -> tuple[Axes, bool]:
    """Return the axes of a block's rows, and whether the graph has them flattened.

    Parameters
    ----------
    hidden
        [..., d_ff].
    x
        What goes into the block: [..., d_model].
    """
    axes = axes_of(hidden)[:-1]
    if len(axes) != 1 or axes == (BATCH_AXIS,) or isinstance(axes[0], int):
        return axes, False
    # The product of two lengths does not tell their order, so we look for the reshape that joined them.
    before = _before_flattening(x, _DEPTH)
    return (axes, False) if before is None else (before, True)


def _told(axes: Axes, graph: ir.Graph | ir.Function | None) -> bool:
    """Tell whether every symbolic axis is one of the inputs', so that the counts can be brought back to it."""
    known = {axis for value in (graph.inputs if graph is not None else ()) for axis in axes_of(value)}
    return all(isinstance(axis, int) or axis in known for axis in axes)


def _before_flattening(value: ir.Value, depth: int) -> Axes | None:
    node = value.producer()
    if node is None or depth == 0 or node.domain:
        return None
    if node.op_type in {"Reshape", "Flatten"}:
        source = node.inputs[0]
        before, after = axes_of(source) if source is not None else (), axes_of(value)
        # The width stays, so what was joined are the axes before it, in their order.
        joined = len(before) > 2 and len(after) == 2 and isinstance(before[-1], int) and before[-1] == after[-1]
        return before[:-1] if joined and before[0] == BATCH_AXIS and _told(before[:-1], node.graph) else None
    if node.op_type in _ROW_WISE:
        inputs = [node.inputs[0]]
    elif node.op_type in _ELEMENTWISE:
        inputs = [v for v in node.inputs if v is not None and axes_of(v) == axes_of(value)]
    elif node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].is_initializer():
        inputs = [node.inputs[0]]
    else:
        return None
    found = (_before_flattening(v, depth - 1) for v in inputs if v is not None)
    return next((axes for axes in found if axes is not None), None)
