"""Choices with thresholds and centres: what a person's density, cap or plan asks for, block by block."""

from dataclasses import dataclass, field

import numpy as np

from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.cuts import Cut, choose_cut, plain_cut
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.plan_file import PlannedBlock, read_plan
from lazyneuron.exporters.samples import Samples
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["Cutter", "needs_samples", "weighs_losses"]


def weighs_losses(settings: ExportSettings) -> bool:
    """Say whether alternatives that lose something are weighed."""
    return settings.plan is None and settings.mode == "auto" and bool(settings.max_quality_drop)


def needs_samples(settings: ExportSettings) -> bool:
    """Say whether rows of the neurons' values are needed.

    Raises
    ------
    ConfigurationError
        If the plan that a person gives cannot be read.
    """
    if settings.plan is not None:
        return any(block.cuts for block in read_plan(settings.plan).blocks)
    if settings.calibration is None:
        return False
    recovers = settings.top_k is not None and settings.recover_mean and settings.mode != "predictor"
    weighs = weighs_losses(settings) and settings.top_k is None
    return settings.density is not None or recovers or weighs


@dataclass(slots=True)
class Cutter:
    """Chooses thresholds and centres from a block's rows, the same ones once.

    Attributes
    ----------
    samples
        None where no rows were kept: then nothing is cut.
    settings
        What a person asks for.
    """

    samples: Samples | None
    settings: ExportSettings
    _known: dict[tuple[str, float | None, int], tuple[Cut, Cut | None]] = field(default_factory=dict)

    def cuts(self, key: str, block: Block, share: float | None, top_k: int) -> tuple[Cut, Cut | None]:
        """Return what `choose_cut` does, for a block by the name of its output."""
        assert self.samples is not None
        wanted = (key, share, top_k)
        if wanted not in self._known:
            down = block.down.weight.read().astype(np.float32)
            self._known[wanted] = choose_cut(self.samples.of(key), down, share=share, top_k=top_k)
        return self._known[wanted]

    def as_set(self, key: str, choice: Choice) -> Choice:
        """Return a choice with the threshold and the centre that the settings ask for."""
        return self._cut(key, choice, self.settings.density, recover=self.settings.recover_mean)

    def as_planned(self, key: str, choice: Choice, asked: PlannedBlock) -> Choice:
        """Return a choice with the threshold and the centre that a plan asks for."""
        if not asked.cuts:
            return choice
        if asked.target_density is None and asked.threshold:
            assert self.samples is not None
            down = choice.block.down.weight.read().astype(np.float32)
            return choice.cut(plain_cut(self.samples.of(key), down, asked.threshold, choice.top_k))
        recover = asked.centred is True or (asked.centred is None and asked.target_density is not None)
        return self._cut(key, choice, asked.target_density, recover=recover)

    def _cut(self, key: str, choice: Choice, share: float | None, *, recover: bool) -> Choice:
        """Cut where a block has more active neurons than wanted, or a cap leaves some out whose mean is worth it.

        Under a cap alone a block with ReLU stays as it is: a model may have been trained for what the cap leaves.
        """
        if self.samples is None or choice.mode == "predictor":
            return choice
        if share is not None and choice.density.mean <= share:
            share = None
        capped = choice.top_k != choice.block.top_k and choice.block.signed
        if share is None and not (capped and recover):
            return choice
        plain, centred = self.cuts(key, choice.block, share, choice.top_k)
        if recover and centred is not None and choice.mode != "certified":
            return choice.cut(centred, share)
        return choice.cut(plain, share) if share is not None else choice
