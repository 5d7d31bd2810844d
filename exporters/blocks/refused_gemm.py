"""A block whose down projection is a Gemm that `gemm.py` could not turn into a MatMul: named, and stays dense.

Before: `Gemm(f(…), down, C)` with a transposed first input or a C that is no constant row
After:  the same
"""

from typing import Any

import onnx_ir as ir

from lazyneuron.exporters.blocks.block import Block, Refusal
from lazyneuron.exporters.blocks.relu import is_relu
from lazyneuron.exporters.blocks.rule import BlockRule
from lazyneuron.exporters.blocks.walk import projection, through_layout

__all__ = ["RefusedGemm"]


class RefusedGemm(BlockRule):
    """A block whose down projection is a Gemm that could not become a MatMul."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:  # noqa: ANN401, D102 (onnxscript's builders have no types)
        return op.Gemm(a, b, _allow_other_inputs=True, _outputs=["y"])

    def read(self, y: ir.Value) -> Block | None:
        """Raise the reason if a ReLU and a projection stand before the Gemm; never gives a block."""
        node = y.producer()
        if node is None or node.inputs[0] is None:
            return None
        activated, _ = through_layout(node.inputs[0])
        relu = activated.producer()
        if not is_relu(activated) or relu is None or relu.inputs[0] is None:
            return None
        try:
            up = projection(through_layout(relu.inputs[0])[0])
            down = projection(y)
        except Refusal:
            raise
        assert down is None
        if up is not None:
            raise Refusal("its down projection is a Gemm whose matrix is not constant")
        return None
