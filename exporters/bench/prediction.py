"""How long an artifact should take by the measured costs, to hold against how long it takes."""

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.cost import CostModel, Work
from lazyneuron.exporters.subtraction import subtraction_share

__all__ = ["predicted_saving"]


def predicted_saving(costs: CostModel, manifest: Manifest, sparsity: Sparsity) -> float:
    """Return the seconds that the sparse blocks should save against dense ones, in one call.

    Parameters
    ----------
    sparsity
        What the blocks did in the call: their rows, density and candidates.

    Raises
    ------
    ConfigurationError
        If a kind of block was not measured.
    """
    saved = 0.0
    for plan, counts in zip(manifest.blocks, sparsity.blocks, strict=True):
        if counts.rows == 0:
            continue
        candidates = counts.candidates / counts.neurons
        work = Work(plan.d_model, plan.d_ff, plan.d_out, counts.rows, counts.density, candidates)
        dense = costs.seconds_per_row("dense", work, gated=plan.gated)
        taken = costs.seconds_per_row(plan.mode, work)
        if plan.centred:
            taken += dense * subtraction_share(plan.d_model, plan.d_ff, plan.d_out, counts.rows, costs.threads)
        saved += counts.rows * (dense - taken)
    return saved
