"""An activation that the operator computes, between two projections: GELU, SiLU, squared ReLU, in any form.

Before: `y = MatMul(f(MatMul(x, up) + up_bias), down) + down_bias`, f elementwise nodes that together compute an
        activation of the operators'
After:  `y, active = SparseDown(MatMul(x, up), downᵀ, up_bias, down_bias, budget, activation=f)`
"""

import onnx_ir as ir

from lazyneuron.exporters.blocks.assemble import assemble
from lazyneuron.exporters.blocks.between import elementwise_between
from lazyneuron.exporters.blocks.block import Block
from lazyneuron.exporters.blocks.recognise import operators_own, recognise
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import is_projection, reshapes, through_layout

__all__ = ["CurveBlock"]


class CurveBlock(BlockRule):
    """An activation that the operator computes, between two projections."""

    def read(self, y: ir.Value) -> Block | None:
        """Read `MatMul(f(…), down)`."""
        product = down_product(y)
        if product is None or product.inputs[0] is None:
            return None
        activated, layout = through_layout(product.inputs[0])
        between = elementwise_between(activated, lambda value: is_projection(through_layout(value)[0]))
        if between is None or len(between.sources) != 1 or any(map(reshapes, between.nodes)):
            return None
        computed = operators_own(recognise(between.nodes, between.sources[0], activated))
        return None if computed is None else assemble(y, between, computed, layout)
