"""ReLU between two projections.

Before: `y = MatMul(Relu(MatMul(x, up) + up_bias), down) + down_bias`, biases optional, reshapes and casts between
After:  `y, active = SparseDown(MatMul(x, up), downᵀ, up_bias, down_bias, budget, activation="relu")`
"""

import onnx_ir as ir

from lazyneuron.exporters.blocks.assemble import assemble
from lazyneuron.exporters.blocks.block import Block
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import constant, rank_of, through_layout

__all__ = ["ReluBlock", "is_relu"]


class ReluBlock(BlockRule):
    """ReLU between two projections."""

    def read(self, y: ir.Value) -> Block | None:
        """Read `MatMul(Relu(…), down)`."""
        product = down_product(y)
        if product is None or product.inputs[0] is None:
            return None
        activated, layout = through_layout(product.inputs[0])
        return assemble(y, "relu", activated, layout) if is_relu(activated) else None


def is_relu(value: ir.Value) -> bool:
    """Tell whether a value is max(0, its producer's first input), however that is written."""
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Clip":
        low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        unbounded = len(node.inputs) < 3 or node.inputs[2] is None
        return low is not None and low.size == 1 and low.item() == 0 and unbounded
    if node.op_type == "Max" and len(node.inputs) == 2:
        source, zero = node.inputs[0], constant(node.inputs[1])
        no_more_axes = source is not None and zero is not None and zero.ndim <= rank_of(source, 0)
        return no_more_axes and zero is not None and zero.size == 1 and zero.item() == 0
    return node.op_type == "Relu"
