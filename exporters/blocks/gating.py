"""Reading a gate that keeps the k largest of a row's neurons, in the forms in which torch users write one."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lazyneuron.exporters.blocks.walk import constant

__all__ = ["Gate", "read_gate"]

_COMPARISONS = {"GreaterOrEqual": True, "Less": False}


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate that keeps the k largest.

    Attributes
    ----------
    source
        What is gated: [..., d_ff].
    k
        How many it keeps.
    nodes
        What computes it.
    """

    source: ir.Value
    k: int
    nodes: frozenset[ir.Node]


def read_gate(value: ir.Value) -> Gate | None:
    """Read what computes `value` as a gate, if it is one.

    With h the gated value and v, i = TopK(h, k) over its last axis, these are gates:

    - `scatter(zeros, i, v)`
    - `h · scatter(zeros, i, ones)`, the mask cast or not
    - `where(mask, h, 0)` and `where(not mask, 0, h)`
    - the last two with the mask `h ≥ v[..., -1:]` or `h ≥ min(v)`, and its complement `h < …`
    """
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "ScatterElements":
        return _scattered(node)
    if node.op_type == "Mul":
        pairs = ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0]))
        return next((g for h, m in pairs if (g := _masked(node, h, m, kept=True)) is not None), None)
    if node.op_type == "Where":
        condition, first, second = node.inputs
        if _fill(second, 0.0) is not None:
            return _masked(node, first, condition, kept=True, also=_fill(second, 0.0))
        if _fill(first, 0.0) is not None:
            return _masked(node, second, condition, kept=False, also=_fill(first, 0.0))
    return None


def _scattered(node: ir.Node) -> Gate | None:
    """Read `scatter(zeros, i, v)`."""
    top = _top_k(node.inputs[1], 1)
    zeros = _fill(node.inputs[0], 0.0)
    if top is None or zeros is None or node.inputs[2] is not top.outputs[0] or not _on_last_axis(node):
        return None
    return _gate(top, {node, *zeros})


def _masked(
    node: ir.Node,
    source: ir.Value | None,
    mask: ir.Value | None,
    *,
    kept: bool,
    also: frozenset[ir.Node] | None = None,
) -> Gate | None:
    """Read a mask that is true where `kept`, applied to `source` by `node`."""
    path: set[ir.Node] = {node, *(also or ())}
    producer = mask.producer() if mask is not None else None
    while producer is not None and producer.op_type in {"Cast", "Not"}:
        kept ^= producer.op_type == "Not"
        path.add(producer)
        mask = producer.inputs[0]
        producer = mask.producer() if mask is not None else None
    if producer is None or source is None:
        return None
    if producer.op_type == "ScatterElements" and kept:
        found = _scattered_ones(producer)
    elif _COMPARISONS.get(producer.op_type) is kept and producer.inputs[0] is source:
        found = _kth(producer.inputs[1])
    else:
        return None
    if found is None or found[0].inputs[0] is not source:
        return None
    return _gate(found[0], path | {producer} | found[1])


def _scattered_ones(node: ir.Node) -> tuple[ir.Node, frozenset[ir.Node]] | None:
    top = _top_k(node.inputs[1], 1)
    zeros, ones = _fill(node.inputs[0], 0.0), _fill(node.inputs[2], 1.0)
    if top is None or zeros is None or ones is None or not _on_last_axis(node):
        return None
    return top, zeros | ones


def _kth(value: ir.Value | None) -> tuple[ir.Node, frozenset[ir.Node]] | None:
    """Read the smallest of the k largest: the last of TopK's sorted values, or their minimum."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in {"Slice", "ReduceMin", "Gather"}:
        return None
    top = _top_k(node.inputs[0], 0)
    if top is None:
        return None
    rank = len(top.outputs[0].shape or ())
    if node.op_type == "ReduceMin":
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", [])
        fits = axes is not None and list(axes) in ([-1], [rank - 1]) and node.attributes.get_int("keepdims", 1) == 1
    else:
        fits = node.op_type == "Slice" and _last_of(node, rank) and top.attributes.get_int("sorted", 1) == 1
    return (top, frozenset({node})) if fits else None


def _last_of(node: ir.Node, rank: int) -> bool:
    start, end, axes = (constant(v) for v in node.inputs[1:4])
    top = node.inputs[0].shape if node.inputs[0] is not None else None
    width = top[-1] if top is not None else None
    if start is None or end is None or axes is None or start.size != 1 or not isinstance(width, int):
        return False
    return start.item() in (-1, width - 1) and end.item() >= width and axes.item() in (-1, rank - 1)


def _top_k(value: ir.Value | None, output: int) -> ir.Node | None:
    """Return the TopK node whose output `value` is, if it takes a constant number of the largest on the last axis."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "TopK" or node.outputs[output] is not value:
        return None
    largest = node.attributes.get_int("largest", 1) == 1
    return node if largest and constant(node.inputs[1]) is not None and _on_last_axis(node) else None


def _on_last_axis(node: ir.Node) -> bool:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = node.attributes.get_int("axis", -1 if node.op_type == "TopK" else 0)
    plain = node.attributes.get_string("reduction", "none") == "none"
    return plain and (axis == -1 or (shape is not None and axis == len(shape) - 1))


def _fill(value: ir.Value | None, number: float) -> frozenset[ir.Node] | None:
    """Return the nodes that make a tensor of one number; None if `value` is not that."""
    array = constant(value)
    if array is not None:
        return frozenset() if np.all(array == number) else None
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Expand" and _fill(node.inputs[0], number) is not None:
        return frozenset({node, *_shape_nodes(node.inputs[1])})
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get_tensor("value", ir.tensor([0.0])).numpy()
        return frozenset({node, *_shape_nodes(node.inputs[0])}) if np.all(filled == number) else None
    return None


def _shape_nodes(value: ir.Value | None) -> list[ir.Node]:
    node = value.producer() if value is not None else None
    return [node] if node is not None and node.op_type == "Shape" else []


def _gate(top: ir.Node, nodes: set[ir.Node] | frozenset[ir.Node]) -> Gate | None:
    k, source = constant(top.inputs[1]), top.inputs[0]
    if k is None or k.size != 1 or source is None:
        return None
    return Gate(source, int(k.item()), frozenset({top, *nodes}))
