"""What looks like a block and no rule has taken: it is named, with the reason, and stays as it is.

It looks like a block where an elementwise function that bends stands between two products with stored matrices, of
whatever kind.
"""

from collections.abc import Iterator

import onnx_ir as ir

from lazyneuron.exporters.blocks.between import Between, curve_of, elementwise_between
from lazyneuron.exporters.blocks.block import Refusal, Skipped
from lazyneuron.exporters.blocks.naming import name_of
from lazyneuron.exporters.blocks.rule import Ledger
from lazyneuron.exporters.blocks.walk import QUANTISED, QUANTISED_REASON, weight

__all__ = ["name_near_misses"]

_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
_CHOOSING = {"Gather", "GatherND", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Cast", "Split", "Expand"}
"""Operators that give some matrices of a stack."""
_EXPERTS = {"MoE", "QMoE"}
_FURTHEST = 8


def name_near_misses(model: ir.Model, ledger: Ledger) -> None:
    """Add to the ledger what looks like a block and is not in it, also in the bodies of If, Loop and Scan."""
    known = {str(block.down.product.name) for block in ledger.blocks.values()} | {*ledger.skipped}
    for node, holder in _nodes(model.graph):
        if not known.isdisjoint(_ends(node)):
            continue
        if node.op_type in _EXPERTS:
            reason: str | None = "it is a mixture of experts in one node; a block needs a matrix of its own"
            near = [node]
        else:
            ups = _ups(node)
            reason = _reason(node, ups, holder) if ups else None
            near = [*ups, node]
        if reason is not None:
            ledger.skip(str(node.outputs[0].name), Skipped(name_of(near, []), reason))


def _nodes(graph: ir.Graph, holder: ir.Node | None = None) -> Iterator[tuple[ir.Node, ir.Node | None]]:
    """Give the nodes of a graph and of the bodies in it, with the node that holds the body."""
    for node in graph:
        yield node, holder
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _nodes(attribute.as_graph(), node)


def _ends(node: ir.Node) -> set[str]:
    """Return the names under which the ledger may have a product."""
    users = [user for output in node.outputs for user, _ in output.uses()]
    added = [user.outputs[0] for user in users if user.op_type == "Add"]
    return {str(value.name) for value in (*node.outputs, *added)}


def _ups(down: ir.Node) -> list[ir.Node]:
    """Return the products before the activation before `down`; none if it looks like no block."""
    if not _is_product(down) or down.inputs[0] is None:
        return []
    found = _bent(down.inputs[0])
    return [] if found is None else [p for value in found.sources if (p := _product(value)) is not None]


def _bent(hidden: ir.Value) -> Between | None:
    """Return what stands between, as far as it is elementwise, if it bends."""

    def is_source(value: ir.Value) -> bool:
        node = value.producer()
        if node is None or _is_product(node):
            return True
        # The scale and zero point of values that are quantised as they come are no part of the values.
        if node.op_type == "DynamicQuantizeLinear" and value is not node.outputs[0]:
            return True
        return elementwise_between(value, lambda inner: inner is not value, _QUANTISING) is None

    between = elementwise_between(hidden, is_source, _QUANTISING)
    if between is None or curve_of(between) is None or _normalises(between):
        return None
    return between


def _normalises(between: Between) -> bool:
    """Tell whether a source is made of values on the way, such as a row's mean: that is a norm over a residual."""
    inside = {output for node in between.nodes for output in node.outputs}
    pending = [node for value in between.sources if (node := value.producer()) is not None and not _is_product(node)]
    for _ in range(_FURTHEST):
        if any(value in inside for node in pending for value in node.inputs):
            return True
        before = [value.producer() for node in pending for value in node.inputs if value is not None]
        pending = [node for node in before if node is not None and not _is_product(node)]
    return False


def _product(value: ir.Value) -> ir.Node | None:
    """Return the product that a value is, also where a convolution follows it."""
    node = value.producer()
    if node is None or _is_product(node):
        return node
    path: list[str] = []
    while node is not None and len(path) < _FURTHEST and node.op_type in {"Conv", "Transpose", "Reshape", "Add"}:
        path.append(node.op_type)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
        if node is not None and _is_product(node):
            return node if "Conv" in path else None
    return None


def _is_product(node: ir.Node) -> bool:
    """Tell whether a node multiplies by stored numbers."""
    if node.op_type in QUANTISED - {"DequantizeLinear"}:
        return True
    if node.domain or node.op_type not in {"MatMul", "Gemm"} or node.inputs[1] is None:
        return False
    return _is_stored(node.inputs[1])


def _is_stored(value: ir.Value) -> bool:
    """Tell whether a value is a stored matrix, quantised or not, or chosen from a stack of them."""
    for _ in range(_FURTHEST):
        if not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None:
            return True
        node = value.producer()
        if node is None or node.op_type not in {*_CHOOSING, "DequantizeLinear"} or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return False


def _reason(down: ir.Node, ups: list[ir.Node], holder: ir.Node | None) -> str:
    if holder is not None:
        return f"it is inside the body of {holder.op_type} {holder.name}; only blocks of the main graph are taken"
    for product in (*ups, down):
        try:
            matrix = weight(product.inputs[1]) if product.op_type not in QUANTISED else None
        except Refusal as refusal:
            return refusal.reason
        if product.op_type in QUANTISED:
            return QUANTISED_REASON
        if product.op_type == "Gemm" and matrix is not None:
            return f"its projection {product.name} is a Gemm with transA or with a C that is no constant row"
        if matrix is None:
            return "its matrices are chosen from a stack for each row, as in a mixture of experts"
    return "what stands between its projections is not taken: a convolution, or a product with something else"
