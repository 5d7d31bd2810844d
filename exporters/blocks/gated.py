"""A gated block: an activation of one projection times another.

Before: `y = MatMul(f(MatMul(x, gate) + gate_bias) · (MatMul(x, up) + up_bias), down) + down_bias`
After:  f relu or relu2: `y, active, candidates = SparseMLP(x, upᵀ, downᵀ, up_bias, down_bias, budget,
        scores=MatMul(x, gate) + gate_bias, mode="gate", activation=f)`
        else `y, active = SparseDown(f(…) · (…), downᵀ, down_bias, budget, activation="identity")`

The two projections may be halves of one.
"""

import onnx_ir as ir

from lazyneuron.exporters.blocks.assemble import assemble_gated
from lazyneuron.exporters.blocks.between import Between, elementwise_between
from lazyneuron.exporters.blocks.block import Block
from lazyneuron.exporters.blocks.recognise import recognise
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import is_projection, reshapes, through_casts

__all__ = ["GatedBlock"]


class GatedBlock(BlockRule):
    """An activation of one projection times another."""

    def read(self, y: ir.Value) -> Block | None:
        """Read `MatMul(f(gate) · up, down)`."""
        product = down_product(y)
        if product is None or product.inputs[0] is None:
            return None
        multiplied = through_casts(product.inputs[0])
        node = multiplied.producer()
        if node is None or node.domain or node.op_type != "Mul":
            return None
        for activated, other in (node.inputs, reversed(node.inputs)):
            if activated is None or other is None or not is_projection(through_casts(other)):
                continue
            between = _gate(activated)
            name = None if between is None else recognise(between.nodes, between.sources[0], activated)
            if between is not None and name is not None:
                return assemble_gated(y, node, between, through_casts(other), name)
        return None


def _gate(activated: ir.Value) -> Between | None:
    between = elementwise_between(activated, is_projection)
    if between is None or len(between.sources) != 1 or any(map(reshapes, between.nodes)):
        return None
    return between
