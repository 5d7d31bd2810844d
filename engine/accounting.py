"""From the operators' counts to sparsity and FLOPs.

Figures come from what the operators counted while they ran, never from the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lazyneuron.engine.artifact import BlockPlan

__all__ = ["BlockCounts", "Sparsity", "block_counts"]


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """What one MLP block did over a number of rows.

    Attributes
    ----------
    name
        The block's name in the manifest.
    rows
        Real rows (padding is counted apart).
    neurons
        rows · d_ff.
    active
        Neurons whose down projection was computed.
    candidates
        Neurons whose up projection was computed.
    flops_dense, flops_executed
        Floating-point operations of the dense block, and those done instead (a multiply-add is two).
    """

    name: str
    rows: int
    neurons: int
    active: int
    candidates: int
    flops_dense: int
    flops_executed: int

    @property
    def density(self) -> float:
        """The share of neurons that were active; 0 over no rows."""
        return self.active / self.neurons if self.neurons else 0.0

    def __add__(self, other: "BlockCounts") -> "BlockCounts":
        if self.name != other.name:
            msg = f"counts of different blocks do not add: {self.name!r} and {other.name!r}"
            raise ValueError(msg)
        return BlockCounts(
            self.name,
            self.rows + other.rows,
            self.neurons + other.neurons,
            self.active + other.active,
            self.candidates + other.candidates,
            self.flops_dense + other.flops_dense,
            self.flops_executed + other.flops_executed,
        )


@dataclass(frozen=True, slots=True)
class Sparsity:
    """What was skipped, block by block. Two of the same model add."""

    blocks: tuple[BlockCounts, ...]

    @property
    def density(self) -> float:
        """The share of all blocks' neurons that were active; 0 over no rows."""
        neurons = sum([b.neurons for b in self.blocks])  # lists: every answer has these sums
        return sum([b.active for b in self.blocks]) / neurons if neurons else 0.0

    @property
    def flops_dense(self) -> int:
        """The dense blocks' operations."""
        return sum([b.flops_dense for b in self.blocks])

    @property
    def flops_executed(self) -> int:
        """The operations that were done."""
        return sum([b.flops_executed for b in self.blocks])

    @property
    def flops_saved(self) -> int:
        """Dense minus executed; negative where skipping cost more than it saved."""
        return self.flops_dense - self.flops_executed

    def __add__(self, other: "Sparsity") -> "Sparsity":
        return Sparsity(tuple(a + b for a, b in zip(self.blocks, other.blocks, strict=True)))

    @classmethod
    def total(cls, parts: Sequence["Sparsity"]) -> "Sparsity":
        """Return the sum of at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls(tuple(_total(column) for column in zip(*(part.blocks for part in parts), strict=True)))


def _total(column: Sequence[BlockCounts]) -> BlockCounts:
    """Return the sum of one block's counts: in one pass, since every batch needs it."""
    name = column[0].name
    if unlike := [counts.name for counts in column if counts.name != name]:
        msg = f"counts of different blocks do not add: {name!r} and {unlike[0]!r}"
        raise ValueError(msg)
    return BlockCounts(
        name,
        sum(c.rows for c in column),
        sum(c.neurons for c in column),
        sum(c.active for c in column),
        sum(c.candidates for c in column),
        sum(c.flops_dense for c in column),
        sum(c.flops_executed for c in column),
    )


def block_counts(plan: BlockPlan, *, rows: int, active: int, candidates: int | None = None) -> BlockCounts:
    """Return a block's counts and FLOPs.

    Parameters
    ----------
    plan
        The block, with its FLOPs model.
    rows
        Rows computed.
    active
        Neurons used over these rows.
    candidates
        Neurons whose up projection was computed; None: all of them.
    """
    if candidates is None:
        candidates = rows * plan.d_ff
    flops = plan.flops
    executed = rows * flops.per_row + candidates * flops.per_candidate + active * flops.per_active
    return BlockCounts(plan.name, rows, rows * plan.d_ff, active, candidates, rows * flops.dense_per_row, executed)
