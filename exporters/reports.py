"""What `inspect` and `export` give back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Calibration, Density, Manifest
from lazyneuron.exporters.blocks import Block, Skipped
from lazyneuron.exporters.plan_file import Plan, PlannedBlock
from lazyneuron.exporters.verdict import Verdict, judge

__all__ = ["BlockSparsity", "ExportReport", "SparsityReport"]


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

    @classmethod
    def of(cls, block: Block, density: Density, histogram: NDArray[np.int64]) -> "BlockSparsity":
        """Describe a block."""
        sizes = (block.d_model, block.d_ff, block.d_out, block.top_k)
        ways = (block.gate is not None, block.gating, block.screenable)
        return cls(block.name, block.activation, *sizes, density, histogram, *ways)

    def document(self) -> dict[str, Any]:
        """Return it for JSON; `density` is the mean over rows."""
        shares = self.density.model_dump(exclude={"mean"})
        sizes = {"d_model": self.d_model, "d_ff": self.d_ff, "d_out": self.d_out, "top_k": self.top_k}
        kind = {"activation": self.activation, "gated": self.gated}
        return {"name": self.name, **kind, **sizes, "density": self.density.mean, **shares}


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

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "checkpoint": self.checkpoint,
            "calibration": self.calibration.model_dump(),
            "verdict": self.verdict.document(),
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
    """

    path: Path
    manifest: Manifest
    sparsity: SparsityReport
    plan: Plan

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
