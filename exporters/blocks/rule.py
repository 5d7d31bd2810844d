"""What every rule for a block has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from lazyneuron.exporters.blocks.block import Block, Refusal, Skipped
from lazyneuron.exporters.blocks.naming import name_of, unique
from lazyneuron.exporters.blocks.walk import projection

__all__ = ["BlockRule", "Emit", "Ledger", "down_product"]

Emit = Callable[[Any, Block], ir.Value]
"""Builds a block's replacement with onnxscript's builder and returns what takes the place of its output."""


_FARTHEST = 24
"""How many nodes an activation may be from a block's end, to be looked through for a name."""


@dataclass(slots=True)
class Ledger:
    """What the rules found, by the name of the block's output, in the graph's order."""

    blocks: dict[str, Block] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def take(self, key: str, block: Block) -> None:
        """Note a block under a name of its own."""
        self.blocks[key] = replace(block, name=unique(block.name, self._names))

    def ends_in(self, product: ir.Value) -> Block | None:
        """Return the block whose down projection gives a product, before any bias."""
        return next((block for block in self.blocks.values() if block.down.product is product), None)

    def skip(self, key: str, skipped: Skipped) -> None:
        """Note what was not taken; the first reason stands."""
        if key not in self.skipped:
            self.skipped[key] = Skipped(unique(skipped.name, self._names), skipped.reason)


class BlockRule(RewriteRuleClassBase, ABC):
    """A rule for one shape of MLP block. A new shape is a new file with a subclass, listed in `blocks/__init__.py`.

    The pattern anchors at the end of the down projection; `read` says what stands before it.

    Parameters
    ----------
    ledger
        Where findings go.
    biased
        Whether the block's last node is the addition of a bias, or the product.
    emit
        Builds the replacement; None while blocks are only looked for.
    plan
        The blocks to replace, by the name of their output.
    """

    def __init__(
        self, ledger: Ledger, *, biased: bool, emit: Emit | None = None, plan: Mapping[str, Block] | None = None
    ) -> None:
        # Not removing nodes lets a pattern match though its inner values are used elsewhere, which `read` then says.
        super().__init__(remove_nodes=False)
        self._ledger = ledger
        self._biased = biased
        self._emit = emit
        self._plan = plan or {}

    @abstractmethod
    def read(self, y: ir.Value) -> Block | None:
        """Read the block that ends in `y`; None if `y` is not the end of one of this shape.

        Raises
        ------
        Refusal
            If it has this shape and cannot be taken, with the reason.
        """

    def pattern(self, op: Any, a: Any, b: Any) -> Any:  # noqa: ANN401, D102 (onnxscript's builders have no types)
        return op.Add(a, b, _outputs=["y"]) if self._biased else op.MatMul(a, b, _outputs=["y"])

    def check(self, op: Any, *args: Any, **kwargs: Any) -> MatchResult:  # noqa: ANN401, D102
        del op, args
        result = MatchResult()
        y: ir.Value = kwargs["y"]
        key = str(y.name)
        if self._emit is not None:
            return result if key in self._plan else result.fail("it is not in the plan", y)
        if key in self._ledger.blocks or key in self._ledger.skipped:
            return result.fail("another rule has it", y)
        if not self._biased and _is_biased(y):
            return result.fail("its bias is a part of it", y)
        try:
            block = self.read(y)
        except Refusal as refusal:
            self._ledger.skip(key, Skipped(name_of(_products(y), []), refusal.reason))
            return result.fail(refusal.reason, y)
        if block is None:
            return result.fail("it has another shape", y)
        if (other := self._ledger.ends_in(block.up.product)) is not None:
            reason = f"its up projection is the down projection of {other.name}, which is taken"
            self._ledger.skip(key, Skipped(block.name, reason))
            return result.fail(reason, y)
        self._ledger.take(key, block)
        return result

    def rewrite(self, op: Any, y: ir.Value, **_: ir.Value) -> ir.Value:  # noqa: ANN401, D102
        assert self._emit is not None
        return self._emit(op, self._plan[str(y.name)])


def down_product(y: ir.Value) -> ir.Node | None:
    """Return the MatMul or Gemm that `y` is, or to which `y` adds a bias."""
    node = y.producer()
    if node is not None and node.op_type == "Add":
        try:
            whole = projection(y)
        except Refusal:
            return None  # it is asked again at the product
        return None if whole is None else whole.product.producer()
    return node


def _products(y: ir.Value) -> list[ir.Node]:
    """Return the product that ends in `y` and the one before it, to name what was refused by where they stand."""
    found: list[ir.Node] = []
    value: ir.Value | None = y
    for _ in range(_FARTHEST):
        node = value.producer() if value is not None else None
        if node is None or not node.inputs:
            break
        if node.op_type in {"MatMul", "Gemm"}:
            found.append(node)
        if len(found) == 2:
            break
        # A bias may stand on either side.
        value = next((v for v in node.inputs if v is not None and v.producer() is not None), None)
    return found


def _is_biased(y: ir.Value) -> bool:
    users = [node for node, _ in y.uses()]
    if len(users) != 1 or users[0].op_type != "Add" or y.is_graph_output():
        return False
    try:
        whole = projection(users[0].outputs[0])
    except Refusal:
        return False
    return whole is not None and whole.product is y
