"""What stands between a block's projections: elementwise nodes, and the function that they compute."""

from collections.abc import Callable, Container
from dataclasses import dataclass

import onnx_ir as ir

from lazyneuron.exporters.blocks.walk import constant, of_layout

__all__ = ["Between", "curve_of", "elementwise_between"]

_CURVES = {
    "Gelu": "gelu",
    "FastGelu": "gelu_tanh",
    "QuickGelu": "quick_gelu",
    "Erf": "gelu",
    "Swish": "silu",
    "Silu": "silu",
    "HardSwish": "hard_swish",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "ThresholdedRelu": "thresholded_relu",
    "Shrink": "shrink",
    "Elu": "elu",
    "Selu": "selu",
    "Celu": "celu",
    "Mish": "mish",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "HardSigmoid": "hard_sigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Clip": "clip",
}
"""Operators that make a function an activation, and what it is called for them; the first that occurs names it."""
_ARITHMETIC = {"Mul", "Add", "Sub", "Div", "Pow", "Sqrt", "Exp", "Log", "Neg", "Max", "Min", "Sum", "Abs", "Sign"}
_CHOICES = {"Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
_DOMAINS = {"", "com.microsoft"}
_MOST_NODES = 40


@dataclass(frozen=True, slots=True)
class Between:
    """Elementwise nodes between projections.

    Attributes
    ----------
    nodes
        What computes the neurons' values, in an order in which they can run.
    sources
        The values where they begin, such as projections.
    """

    nodes: tuple[ir.Node, ...]
    sources: tuple[ir.Value, ...]


def elementwise_between(
    hidden: ir.Value, is_source: Callable[[ir.Value], bool], also: frozenset[str] = frozenset()
) -> Between | None:
    """Walk up from the neurons' values through elementwise nodes to sources; None if something else is met.

    Parameters
    ----------
    hidden
        The neurons' values.
    is_source
        Tells where to end.
    also
        Further operators to walk through, by their first input.
    """
    nodes: dict[ir.Node, None] = {}
    sources: dict[ir.Value, None] = {}
    pending = [hidden]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in sources or constant(value) is not None:
            continue
        if is_source(value):
            sources[value] = None
        elif node is not None and len(nodes) < _MOST_NODES and _is_elementwise(node, also):
            nodes[node] = None
            inputs = node.inputs[:1] if of_layout(node) or node.op_type in also else node.inputs
            pending += [v for v in inputs if v is not None and v.producer() not in nodes]
        else:
            return None
    return Between(_in_order(hidden, nodes), tuple(sources))


def curve_of(between: Between) -> str | None:
    """Name the activation by its operators; None if there is none among them."""
    ops = {node.op_type for node in between.nodes}
    curves = [name for op, name in _CURVES.items() if op in ops]
    # A maximum with a constant, and a choice by a comparison, bend what is otherwise straight.
    if not curves:
        return "max" if "Max" in ops else "where" if "Where" in ops else None
    if ops >= {"Tanh", "Mul", "Add"}:
        return "gelu_tanh"
    if ops >= {"Sigmoid", "Mul"}:
        return "silu"
    return "relu2" if "Relu" in ops and _squares(between.nodes) else curves[0]


def _in_order(hidden: ir.Value, nodes: Container[ir.Node]) -> tuple[ir.Node, ...]:
    """Put nodes into an order in which they can run."""
    ordered: dict[ir.Node, None] = {}

    def visit(value: ir.Value | None) -> None:
        node = value.producer() if value is not None else None
        if node is None or node not in nodes or node in ordered:
            return
        for before in node.inputs:
            visit(before)
        ordered[node] = None

    visit(hidden)
    return tuple(ordered)


def _is_elementwise(node: ir.Node, also: frozenset[str]) -> bool:
    if node.domain not in _DOMAINS:
        return False
    return node.op_type in {*_CURVES, *_ARITHMETIC, *_CHOICES, *also} or of_layout(node)


def _squares(nodes: tuple[ir.Node, ...]) -> bool:
    return any(n.op_type == "Pow" or (n.op_type == "Mul" and n.inputs[0] is n.inputs[1]) for n in nodes)
