"""What looks like a block and has an activation that no rule takes: it is named, with the reason, and stays dense.

Before: `MatMul(f(MatMul(x, up), …), down)` with any elementwise f
After:  the same
"""

import onnx_ir as ir

from lazyneuron.exporters.blocks.block import Block, Refusal
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import constant, of_layout, projection, weight

__all__ = ["NotTaken"]

_CURVES = {
    "Gelu": "gelu",
    "BiasGelu": "gelu",
    "FastGelu": "gelu_tanh",
    "QuickGelu": "quick_gelu",
    "Erf": "gelu",
    "Swish": "silu",
    "Silu": "silu",
    "HardSwish": "hard_swish",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "Elu": "elu",
    "Selu": "selu",
    "Celu": "celu",
    "Mish": "mish",
    "Softplus": "softplus",
    "HardSigmoid": "hard_sigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Clip": "clip",
}
_ARITHMETIC = {"Mul", "Add", "Sub", "Div", "Pow", "Sqrt", "Exp", "Neg", "Max", "Min", "Abs", "Where"}
_MOST_NODES = 40


class NotTaken(BlockRule):
    """An elementwise function that no rule takes, between two projections."""

    def read(self, y: ir.Value) -> Block | None:
        """Raise the reason if `y` ends what looks like a block; never gives one."""
        product = down_product(y)
        if product is None or product.inputs[0] is None or not _is_constant(product):
            return None
        found = _between(product.inputs[0])
        if found is None:
            return None
        nodes, ups = found
        activation = _activation(nodes)
        if activation is None or not ups:
            return None
        if activation == "relu" and len(ups) == 1:
            raise Refusal(
                "what stands between its projections beside the relu is not taken: a bias that is no row, say"
            )
        gated = "gated " if len(ups) > 1 else ""
        raise Refusal(f"activation {gated}{activation} is not taken in this version; relu is")


def _is_constant(product: ir.Node) -> bool:
    try:
        return weight(product.inputs[1]) is not None
    except Refusal:
        return True  # quantised


def _between(hidden: ir.Value) -> tuple[list[ir.Node], list[ir.Value]] | None:
    """Return the elementwise nodes above `hidden` and the projections where they begin; None if there is more."""
    nodes: dict[ir.Node, None] = {}
    ups: dict[ir.Value, None] = {}
    pending = [hidden]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in ups or (node is None and not value.is_graph_input()) or constant(value) is not None:
            continue
        if _is_projection(value):
            ups[value] = None
        elif node is not None and len(nodes) < _MOST_NODES and _is_elementwise(node):
            nodes[node] = None
            inputs = node.inputs[:1] if of_layout(node) else node.inputs
            pending += [v for v in inputs if v is not None and v.producer() not in nodes]
        else:
            return None
    return list(nodes), list(ups)


def _is_projection(value: ir.Value) -> bool:
    try:
        return projection(value) is not None
    except Refusal:
        return True


def _is_elementwise(node: ir.Node) -> bool:
    return node.op_type in _CURVES or node.op_type in _ARITHMETIC or of_layout(node)


def _activation(nodes: list[ir.Node]) -> str | None:
    """Name the function that the nodes compute together."""
    ops = {node.op_type for node in nodes}
    curves = [name for op, name in _CURVES.items() if op in ops]
    if not curves:
        return None
    if ops >= {"Tanh", "Mul", "Add"}:
        return "gelu_tanh"
    if ops >= {"Sigmoid", "Mul"}:
        return "silu"
    return "relu2" if "Relu" in ops and _squares(nodes) else curves[0]


def _squares(nodes: list[ir.Node]) -> bool:
    return any(n.op_type == "Pow" or (n.op_type == "Mul" and n.inputs[0] is n.inputs[1]) for n in nodes)
