"""Any other activation between projections: it stays in the graph, and the operator skips what it leaves at zero.

Before: `y = MatMul(f(MatMul(x, up) + up_bias, …), down) + down_bias` with any elementwise f of one or more projections
After:  `y, active = SparseDown(f(…), downᵀ, down_bias, budget, activation="identity")`
"""

import onnx_ir as ir

from lazyneuron.exporters.blocks.assemble import check_types, places
from lazyneuron.exporters.blocks.between import curve_of, elementwise_between
from lazyneuron.exporters.blocks.block import Block, Refusal
from lazyneuron.exporters.blocks.naming import name_of
from lazyneuron.exporters.blocks.recognise import recognise
from lazyneuron.exporters.blocks.rows import rows_of
from lazyneuron.exporters.blocks.rule import BlockRule, down_product
from lazyneuron.exporters.blocks.walk import is_projection, projection

__all__ = ["ElementwiseBlock"]

_NEVER_ZERO = {"tanh", "sigmoid", "softsign", "softplus", "hard_sigmoid"}
"""Activations of poolers and classifiers rather than of MLP blocks."""


class ElementwiseBlock(BlockRule):
    """Any elementwise function that bends, of one or more projections, before another."""

    def read(self, y: ir.Value) -> Block | None:
        """Read `MatMul(f(…), down)`."""
        product = down_product(y)
        if product is None or product.inputs[0] is None:
            return None
        between = elementwise_between(product.inputs[0], is_projection)
        activation = None if between is None else curve_of(between)
        if between is None or activation is None or (down := projection(y)) is None:
            return None
        found = [p for value in between.sources if (p := projection(value)) is not None]
        ups = [p for p in found if p.weight.shape[1] == down.weight.shape[0]]
        if not ups:
            return None
        check_types(down)
        rows, flattened = rows_of(down.x, ups[0].x)
        name = name_of(*places(*ups, down))
        if len(between.sources) == 1:
            activation = recognise(between.nodes, between.sources[0], product.inputs[0]) or activation
        if activation in _NEVER_ZERO:
            raise Refusal(f"its activation is {activation}, which is never near zero")
        gate = ups[1] if len(ups) > 1 else None
        return Block(name, activation, "identity", ups[0], down, (), 0, rows, flattened, gate)
