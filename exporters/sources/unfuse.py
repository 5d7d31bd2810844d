"""Fused nodes of ONNX Runtime's (com.microsoft) → the plain nodes that they stand for.

Before: `BiasGelu(x, b)`, `FastGelu(x, b)`, `FusedMatMul(x, B, transB, alpha)`, `FusedGemm(x, B, C, activation)`
After:  `Gelu(x + b)`, `FastGelu(x + b)`, `MatMul(x, alpha · B or alpha · Bᵀ)`, `activation(Gemm(x, B, C))`

So that the rules for blocks see projections and activations. ONNX Runtime fuses what stays dense again.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase, RewriteRuleSet

from lazyneuron.exporters.blocks.walk import weight

__all__ = ["DOMAIN", "unfuse"]

DOMAIN = "com.microsoft"
_PLAIN_ACTIVATIONS = {"Relu", "Tanh", "Sigmoid"}


class _BiasedGelu(RewriteRuleClassBase):
    """A GELU that adds a bias first."""

    fused: str
    plain: str

    def pattern(self, op: Any, x: Any, bias: Any) -> Any:  # noqa: ANN401 (onnxscript's builders have no types)
        return getattr(op, self.fused)(x, bias, _domain=DOMAIN, _outputs=["y"])

    def rewrite(self, op: Any, x: ir.Value, bias: ir.Value, **_: ir.Value) -> ir.Value:  # noqa: ANN401
        added = op.Add(x, bias)
        result: ir.Value = getattr(op, self.plain)(added, _domain=DOMAIN)
        return result


class UnfuseBiasGelu(_BiasedGelu):
    """BiasGelu → Add and Gelu."""

    fused, plain = "BiasGelu", "Gelu"


class UnfuseFastGelu(_BiasedGelu):
    """FastGelu with a bias → Add and FastGelu."""

    fused = plain = "FastGelu"


class UnfuseMatMul(RewriteRuleClassBase):
    """FusedMatMul with a constant matrix → MatMul."""

    def pattern(self, op: Any, x: Any, matrix: Any) -> Any:  # noqa: ANN401
        return op.FusedMatMul(x, matrix, _domain=DOMAIN, _outputs=["y"])

    def check(self, op: Any, x: ir.Value, matrix: ir.Value, y: ir.Value) -> MatchResult:  # noqa: ANN401, ARG002
        result, node = MatchResult(), y.producer()
        assert node is not None
        if weight(matrix) is None:
            return result.fail("the matrix is not constant", matrix)
        turned = [name for name in ("transA", "transBatchA", "transBatchB") if node.attributes.get_int(name, 0)]
        return result.fail(f"it has {turned[0]}", node) if turned else result

    def rewrite(self, op: Any, x: ir.Value, matrix: ir.Value, y: ir.Value) -> ir.Value:  # noqa: ANN401
        node, found = y.producer(), weight(matrix)
        assert node is not None
        assert found is not None
        values = found.read()
        values = values.T if node.attributes.get_int("transB", 0) else values
        values = np.multiply(values, node.attributes.get_float("alpha", 1.0), dtype=values.dtype)
        stored = op.initializer(ir.tensor(np.ascontiguousarray(values)), name=f"lazyneuron.{y.name}.matrix")
        result: ir.Value = op.MatMul(x, stored)
        return result


class UnfuseGemm(RewriteRuleClassBase):
    """FusedGemm → Gemm and its activation."""

    def pattern(self, op: Any, x: Any, matrix: Any) -> Any:  # noqa: ANN401
        return op.FusedGemm(x, matrix, _domain=DOMAIN, _allow_other_inputs=True, _outputs=["y"])

    def check(self, op: Any, x: ir.Value, matrix: ir.Value, y: ir.Value) -> MatchResult:  # noqa: ANN401, ARG002
        node = y.producer()
        assert node is not None
        activation = node.attributes.get_string("activation", "")
        fits = activation in _PLAIN_ACTIVATIONS
        return MatchResult() if fits else MatchResult().fail(f"its activation is {activation}", node)

    def rewrite(self, op: Any, x: ir.Value, matrix: ir.Value, y: ir.Value) -> ir.Value:  # noqa: ANN401
        node = y.producer()
        assert node is not None
        numbers = {name: node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
        turned = {name: node.attributes.get_int(name, 0) for name in ("transA", "transB")}
        product = op.Gemm(x, matrix, *node.inputs[2:], **numbers, **turned)
        result: ir.Value = getattr(op, str(node.attributes.get_string("activation")))(product)
        return result


_RULES: tuple[type[RewriteRuleClassBase], ...] = (UnfuseBiasGelu, UnfuseFastGelu, UnfuseMatMul, UnfuseGemm)


def unfuse(model: ir.Model) -> None:
    """Replace fused nodes by what they stand for, where that is known."""
    rules: list[RewriteRule] = [rule.rule() for rule in _RULES]  # type: ignore[no-untyped-call]
    RewriteRuleSet(rules).apply_to_model(model)
