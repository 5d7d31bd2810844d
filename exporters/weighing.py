"""What loses some quality and is cheaper, under an allowed drop over all blocks: predictors, thresholds, centres.

Each alternative's drop is measured on calibration examples with that block alone changed. The cheapest combination
whose drops add up to no more than a sum is found exactly, for several sums around the allowed drop; what each of these
combinations loses as a whole is then measured on the same examples, since losses neither add up exactly nor all count.
The result is a ladder from what loses nothing to the greatest of them that fits, for `admission.py` to try on data that
none of this has seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lazyneuron.engine.cost import CostModel
from lazyneuron.engine.cost_files import load_costs
from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.combine import cheapest_within, frontier
from lazyneuron.exporters.comparison import has_argmax
from lazyneuron.exporters.cutting import Cutter
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.offers import Offer
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.plan_file import Alternative, Plan, PlannedBlock
from lazyneuron.exporters.planner import lossless, price, typical_rows
from lazyneuron.exporters.predicted import offer_predictors
from lazyneuron.exporters.probe import Probe
from lazyneuron.exporters.progress import Progress

__all__ = ["DENSITIES", "Ladder", "weigh"]

DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
"""The shares of neurons that thresholds are weighed for."""
_SPARSER = 0.9
"""A threshold is weighed where it keeps at most this share of what is active anyway."""
_SUMS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Allowed sums of drops that are tried, in allowed drops: errors of blocks that are independent add up in squares."""
_RUNGS = 8

Choices = Mapping[str, Choice]


@dataclass(frozen=True, slots=True)
class Ladder:
    """What may be done, from what costs least quality to what costs most.

    Attributes
    ----------
    rungs
        Choices of all blocks, those that stay dense included, by the name of the block's output; the last is hoped for.
    plan
        The plan, with the alternatives that were weighed.
    notes
        What a person should know of it.
    offered
        What was cheaper than the first choices, whether or not it is in the others.
    """

    rungs: Sequence[Choices]
    plan: Plan
    notes: tuple[str, ...] = ()
    offered: Mapping[str, Sequence[Choice]] = field(default_factory=dict)


def weigh(
    choices: Choices, plan: Plan, measured: Measured, cutter: Cutter, scratch: Path, progress: Progress
) -> Ladder:
    """Weigh what loses something against the cheapest of what loses nothing.

    Parameters
    ----------
    choices
        The cheapest for each block of what loses nothing.
    plan
        With the costs of those.
    """
    settings = cutter.settings
    most = settings.max_quality_drop
    assert most
    if settings.calibration is None:
        return Ladder([choices], plan, ("Predictors were not weighed: they need calibration data.",))
    costs, notes = load_costs(settings.costs).model, []
    planned = {block.name: block for block in plan.blocks}
    base = {key: _base(choice, planned[choice.block.name]) for key, choice in choices.items()}
    try:
        predictors = offer_predictors(base, measured, settings, progress)
    except CalibrationError as error:
        predictors = {}
        notes.append(f"Predictors were not weighed: {error}")
    if settings.top_k is not None:
        notes.append("Thresholds were not weighed: the cap on the neurons of a row says what is kept.")
    offers = {key: [offer] for key, offer in predictors.items()}
    for key, alternatives in _thresholds(base, planned, measured, cutter, costs, progress).items():
        offers[key] = [*offers.get(key, []), *alternatives]
    if not offers:
        return Ladder([choices], plan, tuple(notes))
    trained = {key: offer.choice.predictor for key, offer in predictors.items() if offer.choice.predictor is not None}
    probe = Probe(measured, trained, scratch, argmax=has_argmax(measured.dense.task))
    offers = _with_drops(offers, probe, progress)
    plan = plan.weighed_too({choices[key].block.name: _told(found) for key, found in offers.items()})
    offers = {key: [o for o in found if o.seconds < base[key].seconds] for key, found in offers.items()}
    cheaper = {key: [offer.choice for offer in found] for key, found in offers.items()}
    return Ladder(_rungs(base, offers, most, probe, progress), plan, tuple(notes), cheaper)


def _base(choice: Choice, planned: PlannedBlock) -> Offer:
    assert planned.predicted is not None
    share = planned.chosen.candidates if planned.chosen is not None else 1.0
    return Offer(choice, share, 1e-6 * planned.predicted)


def _told(offers: Sequence[Offer]) -> list[Alternative]:
    return [offer.alternative() for offer in offers]


def _thresholds(
    base: Mapping[str, Offer],
    planned: Mapping[str, PlannedBlock],
    measured: Measured,
    cutter: Cutter,
    costs: CostModel,
    progress: Progress,
) -> dict[str, list[Offer]]:
    """Return the thresholds that are predicted to be cheaper, with and without the mean of what is left out."""
    if cutter.samples is None or cutter.settings.top_k is not None:
        return {}
    progress.step("choosing thresholds", len(base))
    settings = cutter.settings
    by_mode = {mode: lossless(measured, settings, mode) for mode in ("exact", "certified")}
    found: dict[str, list[Offer]] = {}
    for key, best in base.items():
        block = best.choice.block
        rows = typical_rows(measured, block, settings)
        computed = {a.mode: a.candidates for a in planned[block.name].alternatives}
        kinds = {choices[key].mode: choices[key] for choices in by_mode.values()}
        for share in (s for s in DENSITIES if s <= _SPARSER * next(iter(kinds.values())).density.mean):
            plain, centred = cutter.cuts(key, block, share, block.top_k)
            cuts = [kind.cut(plain, share) for kind in kinds.values()]
            if centred is not None and settings.recover_mean:
                cuts.append(next(iter(kinds.values())).cut(centred, share))
            # A threshold leaves no more candidates than there are without it.
            shares = [computed.get(cut.mode, 1.0) for cut in cuts]
            int8 = settings.quantize == "int8"
            priced = [
                Offer(cut, left, price(costs, cut, rows, left, int8=int8))
                for cut, left in zip(cuts, shares, strict=True)
            ]
            by_centre = {offer.choice.centre is not None: offer for offer in sorted(priced, key=lambda o: -o.seconds)}
            cheaper = [offer for offer in by_centre.values() if offer.seconds < best.seconds]
            found.setdefault(key, []).extend(cheaper)
        progress.advance()
    return {key: offers for key, offers in found.items() if offers}


def _with_drops(offers: Mapping[str, Sequence[Offer]], probe: Probe, progress: Progress) -> dict[str, list[Offer]]:
    """Measure what each alternative loses when it alone is changed."""
    trials = [{key: offer.choice} for key, found in offers.items() for offer in found]
    drops = iter(probe.drops(trials, progress))
    return {key: [replace(offer, drop=next(drops)) for offer in found] for key, found in offers.items()}


def _rungs(
    base: Mapping[str, Offer], offers: Mapping[str, Sequence[Offer]], most: float, probe: Probe, progress: Progress
) -> list[Choices]:
    """Return the choices for growing sums of drops, the last the greatest whose drop as a whole is allowed."""
    options = [[best, *offers.get(key, ())] for key, best in base.items()]
    priced = [[(offer.seconds, offer.drop or 0.0) for offer in block] for block in options]
    combinations = frontier(priced, _SUMS[-1] * most)

    def within(allowed: float) -> dict[str, Choice]:
        picks = cheapest_within(combinations, allowed).picks
        return {key: block[pick].choice for key, block, pick in zip(base, options, picks, strict=True)}

    tried = [within(share * most) for share in _SUMS]
    lossy = [{key: choice for key, choice in rung.items() if choice is not base[key].choice} for rung in tried]
    drops = probe.drops(lossy, progress)
    fitting = [share for share, lost in zip(_SUMS, drops, strict=True) if lost <= most]
    top = max(fitting, default=_SUMS[0])
    rungs: list[Choices] = [{key: offer.choice for key, offer in base.items()}]
    for rung in (within(top * most * step / _RUNGS) for step in range(1, _RUNGS + 1)):
        if any(rung[key] is not rungs[-1][key] for key in rung):
            rungs.append(rung)
    return rungs
