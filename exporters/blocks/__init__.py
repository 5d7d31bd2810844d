"""Finding and replacing MLP blocks. One shape of block is one file with one rule; all are listed in `RULES`."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

from lazyneuron.exporters.blocks.block import Block, Skipped
from lazyneuron.exporters.blocks.curve import CurveBlock
from lazyneuron.exporters.blocks.elementwise import ElementwiseBlock
from lazyneuron.exporters.blocks.gated import GatedBlock
from lazyneuron.exporters.blocks.gemm import GemmToMatMul
from lazyneuron.exporters.blocks.near_misses import name_near_misses
from lazyneuron.exporters.blocks.relu import ReluBlock
from lazyneuron.exporters.blocks.relu_top_k import ReluTopKBlock
from lazyneuron.exporters.blocks.rule import BlockRule, Emit, Ledger

__all__ = ["RULES", "Block", "Emit", "Ledger", "Skipped", "find_blocks", "replace_blocks"]

RULES: tuple[type[BlockRule], ...] = (ReluBlock, ReluTopKBlock, CurveBlock, GatedBlock, ElementwiseBlock)
"""In the order in which they are asked: the narrow before the wide."""


def find_blocks(model: ir.Model) -> Ledger:
    """Find the MLP blocks of a model's main graph.

    Gemm nodes with constant matrices become MatMul and Add on the way; nothing else in the model changes.

    Returns
    -------
    What was found, and what looked like a block and was not taken, in the graph's order.
    """
    RewriteRuleSet([_rule(GemmToMatMul)]).apply_to_model(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    ledger = Ledger()
    rules = _rules(ledger)
    for node in model.graph:
        for rule in rules:
            rule.match(model, model.graph, node, check_nodes_are_removable=False)
    name_near_misses(model, ledger)
    return ledger


def replace_blocks(model: ir.Model, plan: Mapping[str, Block], emit: Emit) -> int:
    """Replace blocks, given by the name of their output, by what `emit` builds; return how many were replaced."""
    count = int(RewriteRuleSet(_rules(Ledger(), emit, plan)).apply_to_model(model))
    passes.RemoveUnusedNodesPass()(model)
    return count


def _rules(ledger: Ledger, emit: Emit | None = None, plan: Mapping[str, Block] | None = None) -> list[RewriteRule]:
    return [_rule(rule, ledger, biased=biased, emit=emit, plan=plan) for rule in RULES for biased in (False, True)]


def _rule(rule: type[RewriteRuleClassBase], *args: Any, **options: Any) -> RewriteRule:  # noqa: ANN401 (the rule's own)
    made: RewriteRule = rule.rule(*args, **options)  # type: ignore[no-untyped-call]
    return made
