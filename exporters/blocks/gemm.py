"""Gemm with a constant matrix → MatMul and Add.

Before: `Gemm(x, B, C?, transA=0, transB, alpha, beta)` with constant B, and C a constant row or absent
After:  `Add(MatMul(x, alpha · B or alpha · Bᵀ), beta · C)`

So that the rules for blocks have one form of projection to look for. A Gemm that does not fit stays as it is, and a
block around it is refused with that reason.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from lazyneuron.exporters.blocks.walk import row_bias, weight
from lazyneuron.exporters.build import lazy_tensor

__all__ = ["GemmToMatMul"]


class GemmToMatMul(RewriteRuleClassBase):
    """Gemm with a constant matrix → MatMul and Add."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)
        self._stored: dict[str, ir.Value] = {}

    def pattern(self, op: Any, x: Any, matrix: Any) -> Any:  # noqa: ANN401, D102 (onnxscript's builders have no types)
        return op.Gemm(x, matrix, _allow_other_inputs=True, _outputs=["product"])

    def check(self, op: Any, *args: Any, **kwargs: Any) -> MatchResult:  # noqa: ANN401, D102
        del op, args
        result = MatchResult()
        node = kwargs["product"].producer()
        found = weight(node.inputs[1])
        if found is None:
            return result.fail("the matrix is not constant", node)
        if node.attributes.get_int("transA", 0):
            return result.fail("x is transposed", node)
        if len(node.inputs) > 2 and node.inputs[2] is not None and row_bias(node.inputs[2], _width(node), 2) is None:
            return result.fail("C is not a constant row", node)
        return result

    def rewrite(self, op: Any, x: ir.Value, matrix: ir.Value, product: ir.Value) -> Any:  # noqa: ANN401, D102
        node = product.producer()
        assert node is not None
        assert product.dtype is not None
        multiplied = op.MatMul(x, self._matrix(op, node, matrix))
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return multiplied
        multiplied.shape, multiplied.dtype = product.shape, product.dtype
        beta = node.attributes.get_float("beta", 1.0)
        if beta == 1.0:
            return op.Add(multiplied, node.inputs[2])
        values = row_bias(node.inputs[2], _width(node), 2)
        assert values is not None
        bias = ir.tensor((values * beta).astype(product.dtype.numpy()))
        return op.Add(multiplied, op.initializer(bias, name=f"lazyneuron.{product.name}.bias"))

    def _matrix(self, op: Any, node: ir.Node, matrix: ir.Value) -> ir.Value:  # noqa: ANN401
        transposed, alpha = node.attributes.get_int("transB", 0), node.attributes.get_float("alpha", 1.0)
        if not transposed and alpha == 1.0:
            return matrix
        key = f"lazyneuron.{matrix.name}{'.T' if transposed else ''}{f'.x{alpha!r}' if alpha != 1.0 else ''}"
        if key not in self._stored:
            found = weight(matrix)
            assert found is not None
            read = found.read

            def scaled() -> NDArray[np.generic]:
                values = read().T if transposed else read()
                return values if alpha == 1.0 else np.multiply(values, alpha, dtype=values.dtype)

            self._stored[key] = op.initializer(lazy_tensor(scaled, key), name=key)
        return self._stored[key]


def _width(node: ir.Node) -> int:
    """Return how many columns a Gemm's product has."""
    found = weight(node.inputs[1])
    assert found is not None
    return found.shape[0] if node.attributes.get_int("transB", 0) else found.shape[1]
