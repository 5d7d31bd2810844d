"""ReLU between two projections.

Before: `y = MatMul(Relu(MatMul(x, up) + up_bias), down) + down_bias`, biases optional, reshapes and casts between
After:  `y, active = SparseDown(MatMul(x, up), downᵀ, up_bias, down_bias, budget, activation="relu")`
"""

from typing import TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lazyneuron.exporters.blocks.assemble import assemble
from lazyneuron.exporters.blocks.between import Between
from lazyneuron.exporters.blocks.block import Block
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import constant, rank_of, through_layout

__all__ = ["ReluBlock", "read_relu"]


class ReluBlock(BlockRule):
    """ReLU between two projections."""

    def read(self, y: ir.Value) -> Block | None:
        """Read `MatMul(Relu(…), down)`."""
        product = down_product(y)
        if product is None or product.inputs[0] is None:
            return None
        activated, layout = through_layout(product.inputs[0])
        relu = read_relu(activated)
        return None if relu is None else assemble(y, relu, "relu", layout)


def read_relu(value: ir.Value) -> Between | None:
    """Read max(0, x), however it is written; None if a value is not that."""
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Max" and len(node.inputs) == 2:
        for source, other in (node.inputs, reversed(node.inputs)):
            zero = constant(other)
            if source is not None and _is_zero(zero) and zero.ndim <= rank_of(source, 0):
                return Between((node,), (source,))
        return None
    if node.op_type == "Clip":
        unbounded = len(node.inputs) < 3 or node.inputs[2] is None
        low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        fits = unbounded and _is_zero(low)
    else:
        fits = node.op_type == "Relu"
    return Between((node,), (node.inputs[0],)) if fits and node.inputs[0] is not None else None


def _is_zero(array: NDArray[np.generic] | None) -> TypeGuard[NDArray[np.generic]]:
    return array is not None and array.size == 1 and array.item() == 0
