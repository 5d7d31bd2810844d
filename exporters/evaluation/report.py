"""What an evaluation found."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.artifact import OutputAgreement
from lazyneuron.engine.machine import Machine
from lazyneuron.exporters.evaluation.memory import Memory
from lazyneuron.exporters.evaluation.speed import SpeedCase
from lazyneuron.exporters.evaluation.statistics import Measured
from lazyneuron.exporters.evaluation.verdict import Verdict

__all__ = ["CorruptedCase", "EvaluationReport"]


@dataclass(frozen=True, slots=True)
class CorruptedCase:
    """The data under one corruption.

    Attributes
    ----------
    kind
        Its name.
    amount
        How much of it, in words.
    metrics
        The deciding metric first.
    density
        The share of neurons that were active on it.
    """

    kind: str
    amount: str
    metrics: tuple[Measured, ...]
    density: float

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        metrics = [metric.document() for metric in self.metrics]
        return {"kind": self.kind, "amount": self.amount, "metrics": metrics, "density": self.density}


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """An artifact against its dense graph.

    Attributes
    ----------
    metrics
        Of both graphs, with the difference's 95 % confidence interval; the one that the verdict goes by first.
    outputs
        How far each output is off.
    sparsity
        What the artifact skipped on this data.
    dense_bytes, sparse_bytes
        The graphs' files.
    memory
        What each keeps resident once it has run; None where that was not measured.
    against
        The dense model that a person named; None: the artifact's own dense graph.
    max_quality_drop
        The loss that the verdict allows.
    corruptions
        Empty where none were asked for.
    notes
        What a person should know, in sentences.
    """

    path: Path
    name: str
    version: int
    mode: str
    task: str
    data: str
    examples: int
    labelled: bool
    machine: Machine
    threads: int
    metrics: tuple[Measured, ...]
    outputs: tuple[OutputAgreement, ...]
    sparsity: Sparsity
    speed: tuple[SpeedCase, ...]
    dense_bytes: int
    sparse_bytes: int
    max_quality_drop: float
    verdict: Verdict
    corruptions: tuple[CorruptedCase, ...]
    notes: tuple[str, ...]
    memory: Memory | None = None
    against: str | None = None

    @property
    def flops_saved(self) -> float:
        """The share of the MLP blocks' operations that was not executed."""
        skipped = self.sparsity
        return skipped.flops_saved / skipped.flops_dense if skipped.flops_dense else 0.0

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "path": str(self.path),
            "name": self.name,
            "version": self.version,
            "mode": self.mode,
            "task": self.task,
            "data": self.data,
            "against": self.against,
            "examples": self.examples,
            "labelled": self.labelled,
            "machine": self.machine.model_dump(),
            "threads": self.threads,
            "metrics": [metric.document() for metric in self.metrics],
            "outputs": [output.model_dump() for output in self.outputs],
            "density": self.sparsity.density,
            "mlp_flops_saved": self.flops_saved,
            "blocks": [{"name": block.name, "density": block.density} for block in self.sparsity.blocks],
            "speed": [case.document() for case in self.speed],
            "memory": {"dense_bytes": self.dense_bytes, "sparse_bytes": self.sparse_bytes},
            "resident": None if self.memory is None else asdict(self.memory),
            "corruptions": [case.document() for case in self.corruptions],
            "max_quality_drop": self.max_quality_drop,
            "verdict": self.verdict.document(),
            "notes": list(self.notes),
        }
