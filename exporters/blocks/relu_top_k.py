"""ReLU and a gate that keeps the k largest, between two projections.

Before: `h = Relu(MatMul(x, up) + up_bias); y = MatMul(gate(h, k), down) + down_bias`, the gate as `gating.py` lists it
After:  `y, active = SparseDown(MatMul(x, up), downᵀ, up_bias, down_bias, budget, activation="relu", top_k=k)`

Where several neurons have exactly the k-th value the operator keeps those of lower index, as TopK does; a gate that
compares with the k-th value would keep them all.
"""

import onnx_ir as ir

from lazyneuron.exporters.blocks.assemble import assemble
from lazyneuron.exporters.blocks.block import Block
from lazyneuron.exporters.blocks.gating import read_gate
from lazyneuron.exporters.blocks.relu import read_relu
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import through_layout

__all__ = ["ReluTopKBlock"]


class ReluTopKBlock(BlockRule):
    """ReLU and a gate that keeps the k largest, between two projections."""

    def read(self, y: ir.Value) -> Block | None:
        """Read `MatMul(gate(Relu(…)), down)`."""
        product = down_product(y)
        if product is None or product.inputs[0] is None:
            return None
        gated, after = through_layout(product.inputs[0])
        gate = read_gate(gated)
        if gate is None:
            return None
        activated, before = through_layout(gate.source)
        relu = read_relu(activated)
        return None if relu is None else assemble(y, relu, "relu", (*before, *after), gate)
