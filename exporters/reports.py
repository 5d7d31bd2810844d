"""What `inspect` and `export` give back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Calibration, Density, Manifest
from lazyneuron.exporters.blocks import Block, Skipped
from lazyneuron.exporters.calibration import BlockCounts, density
from lazyneuron.exporters.counts import FIRST_POSITIONS, hottest_shares
from lazyneuron.exporters.doubts import doubts
from lazyneuron.exporters.evaluation.report import EvaluationReport
from lazyneuron.exporters.plan_file import Plan, PlannedBlock
from lazyneuron.exporters.verdict import Verdict, judge

__all__ = ["AtPositions", "BlockSparsity", "ExportReport", "SparsityReport"]


@dataclass(frozen=True, slots=True)
class AtPositions:
    """The density of the rows at some positions of their examples, from `first` to `last` (None: to the end)."""

    first: int
    last: int | None
    rows: int
    density: float

    def __str__(self) -> str:
        """Return the positions."""
        if self.last is None:
            return f"{self.first}+"
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True, slots=True)
class BlockSparsity:
    """How sparse one block is.

    Attributes
    ----------
    top_k
        The block's own gate; 0 where it has none.
    density
        Shares of `d_ff` that fired.
    histogram
        int64 [d_ff + 1]: how many rows had so many neurons active.
    gated
        Whether a second projection is multiplied by the activated one.
    gating, screenable
        Whether zeros can spare the up projection, too: by the gate's own, and by the certified screen.
    fired
        int64 [d_ff]: for how many rows each neuron was active; None where that is not known.
    interval
        The 95 % interval of the mean density, examples being what was drawn; None for fewer than two.
    positions
        By where a row stands in its example; empty where rows do not go by examples.
    unions
        The share of neurons that were active in at least one of so many rows, which is what a mask that is shared by
        them would keep; None where no batch had so many.
    candidates
        The share of neurons that the certified screen leaves, on held-out rows; None where it was not measured.
    """

    name: str
    activation: str
    d_model: int
    d_ff: int
    d_out: int
    top_k: int
    density: Density
    histogram: NDArray[np.int64]
    gated: bool = False
    gating: bool = False
    screenable: bool = False
    fired: NDArray[np.int64] | None = None
    interval: tuple[float, float] | None = None
    positions: tuple[AtPositions, ...] = ()
    unions: Mapping[int, float | None] = field(default_factory=dict)
    candidates: float | None = None

    @classmethod
    def of(cls, block: Block, counts: BlockCounts, candidates: float | None = None) -> "BlockSparsity":
        """Describe a block."""
        sizes = (block.d_model, block.d_ff, block.d_out, block.top_k)
        ways = (block.gate is not None, block.gating, block.screenable)
        return cls(
            block.name,
            block.activation,
            *sizes,
            density(counts),
            counts.histogram,
            *ways,
            fired=counts.fired,
            interval=counts.examples.interval(block.d_ff),
            positions=tuple(_by_position(counts, block.d_ff)),
            unions=counts.unions.shares(block.d_ff),
            candidates=candidates,
        )

    @property
    def hottest(self) -> dict[int, float]:
        """The share of all activations that the hottest neurons made, by their percentage."""
        return {} if self.fired is None else hottest_shares(self.fired)

    def document(self) -> dict[str, Any]:
        """Return it for JSON; `density` is the mean over rows."""
        shares = self.density.model_dump(exclude={"mean"})
        sizes = {"d_model": self.d_model, "d_ff": self.d_ff, "d_out": self.d_out, "top_k": self.top_k}
        kind = {"activation": self.activation, "gated": self.gated}
        more = {
            "density_interval": None if self.interval is None else list(self.interval),
            "density_by_position": [
                {"first": p.first, "last": p.last, "rows": p.rows, "density": p.density} for p in self.positions
            ],
            "density_of_union": {str(rows): share for rows, share in self.unions.items()},
            "activations_of_hottest": {str(percent): share for percent, share in self.hottest.items()},
            "candidates": self.candidates,
        }
        return {"name": self.name, **kind, **sizes, "density": self.density.mean, **shares, **more}


def _by_position(counts: BlockCounts, d_ff: int) -> Iterator[AtPositions]:
    ends = [first - 1 for first in FIRST_POSITIONS[1:]]
    groups = zip(
        FIRST_POSITIONS, [*ends, None], counts.positions.rows.tolist(), counts.positions.active.tolist(), strict=True
    )
    for first, last, rows, active in groups:
        if rows:
            yield AtPositions(first, last, rows, active / (rows * d_ff))


@dataclass(frozen=True, slots=True)
class SparsityReport:
    """How sparse a checkpoint is.

    Attributes
    ----------
    checkpoint
        What was looked at.
    blocks
        In the graph's order.
    skipped
        What looked like a block and was not taken.
    calibration
        What the densities were measured on.
    """

    checkpoint: str
    blocks: tuple[BlockSparsity, ...]
    skipped: tuple[Skipped, ...]
    calibration: Calibration

    @property
    def verdict(self) -> Verdict:
        """Whether skipping can help."""
        return judge(self.blocks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the densities may be off, in words."""
        return doubts(self.blocks, self.calibration)

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "checkpoint": self.checkpoint,
            "calibration": self.calibration.model_dump(),
            "verdict": self.verdict.document(),
            "warnings": list(self.warnings),
            "blocks": [block.document() for block in self.blocks],
            "skipped": [{"name": s.name, "reason": s.reason} for s in self.skipped],
        }


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export made.

    Attributes
    ----------
    path
        The artifact's folder, `…/NAME/VERSION`.
    manifest
        What stands in its manifest.
    sparsity
        What calibration saw.
    plan
        What is done to each block, and what it was weighed against.
    evaluation
        How the artifact did on a person's data; None where none was given.
    """

    path: Path
    manifest: Manifest
    sparsity: SparsityReport
    plan: Plan
    evaluation: EvaluationReport | None = None

    @property
    def report(self) -> Path:
        """The page for a person."""
        return self.path / "report.html"

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        quality = self.manifest.quality
        return {
            "path": str(self.path),
            "name": self.manifest.name,
            "version": self.manifest.version,
            "task": self.manifest.task,
            "mode": self.manifest.mode,
            "quantize": self.manifest.quantize,
            "report": str(self.report),
            "quality": quality.model_dump() if quality else None,
            "notes": list(self.manifest.notes),
            "plan": [self._planned(block) for block in self.plan.blocks],
            "plan_rows": self.plan.rows,
            "plan_costs": self.plan.costs,
            "evaluation": None if self.evaluation is None else self.evaluation.document(),
            **self.sparsity.document(),
        }

    def _planned(self, block: PlannedBlock) -> dict[str, Any]:
        made = {found.name: found for found in self.manifest.blocks}.get(block.name)
        plan = block.model_dump()
        if made is not None:
            plan["candidates"] = made.candidates
            if made.mode == "predictor":
                plan |= {"predictor_rank": made.predictor_rank, "predictor_recall": made.predictor_recall}
        return plan
