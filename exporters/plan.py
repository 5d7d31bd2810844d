"""What is done to each block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lazyneuron.engine.artifact import BlockFlops, BlockPlan, Density
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.calibration import BlockCounts, density
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["Choice", "block_plan", "choose"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done to one block.

    Attributes
    ----------
    block
        The block.
    mode
        `exact`: only what the block's own activation and gate make zero is skipped, and what `top_k` cuts off.
    top_k
        The most neurons a row may use; 0: no cap.
    density
        What calibration saw, under that cap.
    """

    block: Block
    mode: Literal["exact"]
    top_k: int
    density: Density


def choose(blocks: Sequence[Block], counts: Sequence[BlockCounts], settings: ExportSettings) -> list[Choice]:
    """Choose what is done to each block."""
    choices = []
    for block, counted in zip(blocks, counts, strict=True):
        k = _cap(block, settings.top_k)
        choices.append(Choice(block, "exact", k, density(counted, k)))
    return choices


def _cap(block: Block, wanted: int | None) -> int:
    caps = [k for k in (block.top_k, wanted or 0) if 0 < k < block.d_ff]
    return min(caps, default=0)


def block_plan(choice: Choice, active_output: str) -> BlockPlan:
    """Describe a choice for the manifest."""
    block = choice.block
    up, down = 2 * block.d_model, 2 * block.d_out
    return BlockPlan(
        name=block.name,
        operator="SparseDown",
        mode=choice.mode,
        activation=block.activation,
        d_model=block.d_model,
        d_ff=block.d_ff,
        d_out=block.d_out,
        top_k=choice.top_k,
        density=choice.density,
        flops=BlockFlops(dense_per_row=block.d_ff * (up + down), per_candidate=up, per_active=down),
        rows=block.rows,
        active_output=active_output,
    )
