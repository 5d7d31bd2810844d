"""What a mode does to each block."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Activation, BlockFlops, BlockPlan, Density
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.calibration import BlockCounts, density
from lazyneuron.exporters.cuts import Cut
from lazyneuron.exporters.plan_file import BlockMode
from lazyneuron.exporters.predictors.predictor import Predictor
from lazyneuron.exporters.screens import Screen, balanced
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["BREAK_EVEN", "Choice", "block_plan", "choose"]


BREAK_EVEN = 0.5
"""The density at which `SparseDown` takes as long as the dense projection."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done to one block.

    Attributes
    ----------
    block
        The block.
    mode
        `exact`: the down projection skips what the block's own activation and gate make zero, and what `top_k` cuts
        off; `certified`: so does the up projection, as far as a sound bound shows it; `predictor`: so does the up
        projection, of what a predictor leaves out; `gate`: so does the up projection of a gated block, where the
        activated gate is zero; `dense`: it stays as it is.
    top_k
        The most neurons a row may use; 0: no cap.
    density
        What calibration saw, under that cap and above that threshold.
    threshold
        Neurons whose value, less its centre, is not above it in magnitude are left out.
    centre
        float32 [d_ff]: what is taken off the neurons' values before they are compared, and counts for those that are
        left out; None: nothing.
    target
        The share of neurons that the threshold was asked to keep; None where nobody asked for a share.
    error
        What threshold and cap change of the block's output: the root of the mean squared error over that of the mean
        squared output, on calibration rows; 0 where it was not measured.
    screen
        The certified mode's shift and scale; None in others.
    predictor
        The predictor mode's; None in others.
    """

    block: Block
    mode: BlockMode
    top_k: int
    density: Density
    threshold: float = 0.0
    centre: NDArray[np.float32] | None = None
    target: float | None = None
    error: float = 0.0
    screen: Screen | None = None
    predictor: Predictor | None = None

    @property
    def lossy(self) -> bool:
        """Whether it changes the block's output: it leaves out what is not zero."""
        capped = self.top_k != self.block.top_k
        return self.mode == "predictor" or self.threshold > 0 or self.centre is not None or capped

    @property
    def computed(self) -> Activation:
        """The activation that the operator computes; with a centre, which stands after it, it stays in the graph."""
        return self.block.computed if self.centre is None else "identity"

    def cut(self, cut: Cut, target: float | None = None) -> "Choice":
        """Return this choice with a threshold, a cap and a centre.

        A dense block becomes exact, and so does one with a centre: where centres are taken off, no neuron's value is
        known before its up projection.
        """
        exact = self.mode == "dense" or cut.centre is not None
        cut_off = replace(self, threshold=cut.threshold, top_k=cut.top_k, centre=cut.centre, density=cut.density)
        cut_off = replace(cut_off, target=target, error=cut.error)
        return replace(cut_off, mode="exact", screen=None, predictor=None) if exact else cut_off

    def as_predictor(self) -> "Choice":
        """Return this choice in mode `predictor`, for a price: its predictor is still to come."""
        return replace(self, mode="predictor", screen=None)

    def predicted(self, predictor: Predictor) -> "Choice":
        """Return this choice with a predictor instead of a screen."""
        return replace(self.as_predictor(), predictor=predictor)


def choose(blocks: Sequence[Block], counts: Sequence[BlockCounts], settings: ExportSettings) -> list[Choice]:
    """Choose what is done to each block; in mode `predictor`, what is done where no predictor is admitted.

    A block whose activation gives no zeros to skip stays dense, unless a cap makes some.
    """
    choices = []
    for block, counted in zip(blocks, counts, strict=True):
        k = _cap(block, settings.top_k)
        choice = Choice(block, "gate" if block.gating else "exact", k, density(counted, k))
        if block.signed and not block.gating and choice.density.mean > BREAK_EVEN:
            choice = replace(choice, mode="dense")
        elif settings.mode in {"certified", "predictor"} and block.screenable:
            screen = balanced(counted.channels, block.up.weight.read().T)
            choice = replace(choice, mode="certified", screen=screen)
        choices.append(choice)
    return choices


def _cap(block: Block, wanted: int | None) -> int:
    caps = [k for k in (block.top_k, wanted or 0) if 0 < k < block.d_ff]
    return min(caps, default=0)


def block_plan(choice: Choice, active_output: str, candidates_output: str | None, candidates: float) -> BlockPlan:
    """Describe a choice for the manifest.

    Parameters
    ----------
    active_output, candidates_output
        The graph's outputs with the block's counts.
    candidates
        The share of neurons whose up projection is computed.
    """
    assert choice.mode != "dense"
    block = choice.block
    up, down = 2 * block.d_model, 2 * block.d_out
    # The screen multiplies 8-bit codes of every neuron with those of the row.
    screen = block.d_ff * up if choice.mode == "certified" else 0
    gate = block.d_ff * 2 * block.gate.weight.shape[0] if block.gate is not None else 0
    subtracted = block.d_ff if choice.centre is not None else 0
    predictor = choice.predictor
    held_out = predictor.held_out if predictor else None
    return BlockPlan(
        name=block.name,
        operator="SparseDown" if choice.mode == "exact" else "SparseMLP",
        mode=choice.mode,
        activation=choice.computed,
        gated=block.gate is not None,
        d_model=block.d_model,
        d_ff=block.d_ff,
        d_out=block.d_out,
        top_k=choice.top_k,
        threshold=choice.threshold,
        centred=choice.centre is not None,
        density=choice.density,
        candidates=candidates,
        flops=BlockFlops(
            dense_per_row=block.d_ff * (up + down) + gate,
            per_row=(predictor.operations if predictor else screen) + gate + subtracted,
            int8_per_row=screen,
            per_candidate=up,
            per_active=down,
        ),
        rows=block.rows,
        active_output=active_output,
        candidates_output=candidates_output,
        predictor_rank=predictor.rank if predictor else None,
        predictor_recall=held_out.recall if held_out else None,
        predictor_energy=held_out.energy if held_out else None,
    )
