"""Choosing what is done to each block: by a person's mode, by a person's plan, or by predicted cost.

By cost a block's alternatives are those whose output is the dense one's, or what a person's threshold and cap make of
it: to leave it as it is, `exact`, `certified`. Each block's cost stands by itself, so the cheapest of each makes the
cheapest model. What loses something that nobody asked for is weighed after these, in `weighing.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lazyneuron.engine.cost import CostModel, Work
from lazyneuron.engine.cost_files import Costs, load_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.estimates import seconds_per_row
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.candidates import screened
from lazyneuron.exporters.cutting import Cutter
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.offers import Offer
from lazyneuron.exporters.plan import Choice, choose
from lazyneuron.exporters.plan_file import Alternative, BlockMode, Plan, PlannedBlock, read_plan
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.settings import ExportSettings
from lazyneuron.exporters.subtraction import subtraction_share
from lazyneuron.exporters.whole_model import whole_model

__all__ = ["carried_out", "lossless", "make_plan", "price", "typical_rows", "with_whole_model"]

_WEIGHED = ("exact", "certified")
"""The modes that are asked what they would do to each block; to leave it as it is comes first."""
_MOST_ROWS = 1 << 20


def make_plan(measured: Measured, cutter: Cutter, scratch: Path, progress: Progress) -> tuple[dict[str, Choice], Plan]:
    """Choose what is done to each block.

    Parameters
    ----------
    cutter
        With what a person asks for.

    Returns
    -------
    The choices by the name of the block's output, those that stay dense included, and the plan that tells of them.

    Raises
    ------
    ConfigurationError
        If a person's plan does not fit the model, or a named file of costs cannot be read.
    """
    settings = cutter.settings
    if settings.plan is not None:
        return _given_plan(measured, cutter, settings.plan)
    if settings.mode != "auto":
        choices = _choices(measured, cutter, settings.mode)
        return choices, Plan(blocks=tuple(_planned(choice, f"--mode {settings.mode}") for choice in choices.values()))
    return _cheapest(measured, cutter, load_costs(settings.costs), scratch, progress)


def typical_rows(measured: Measured, block: Block, settings: ExportSettings) -> int:
    """Return how many rows a call has: what a person says, else what one calibration example gives on average."""
    if settings.rows is not None:
        return settings.rows
    counts = measured.counts[list(measured.ledger.blocks.values()).index(block)]
    return min(max(round(counts.rows / max(measured.used, 1)), 1), _MOST_ROWS)


def price(
    costs: CostModel, choice: Choice, rows: float, candidates: float, *, int8: bool, rank: int | None = None
) -> float:
    """Predict a choice's seconds for one row.

    Parameters
    ----------
    rows
        Rows in a call.
    candidates
        The share of neurons whose up projection is computed.
    int8
        Whether what stays dense is quantised: dense blocks, and the up projections of exact ones.
    rank
        Of the predictor, in mode `predictor`; None: as it was measured.
    """
    block = choice.block
    work = Work(block.d_model, block.d_ff, block.d_out, rows, choice.density.mean, candidates)
    gated = choice.mode == "gate"
    seconds = seconds_per_row(costs, choice.mode, work, gated=gated, int8=int8, rank=rank)
    if choice.centre is not None:
        share = subtraction_share(block.d_model, block.d_ff, block.d_out, round(rows), costs.threads)
        seconds += share * costs.seconds_per_row("dense", work)
    return seconds


def _cheapest(
    measured: Measured, cutter: Cutter, costs: Costs, scratch: Path, progress: Progress
) -> tuple[dict[str, Choice], Plan]:
    settings = cutter.settings
    by_mode = {mode: _choices(measured, cutter, mode) for mode in _WEIGHED}
    certified = {key: choice for key, choice in by_mode["certified"].items() if choice.mode == "certified"}
    shares = screened(measured, certified, scratch, progress)
    progress.step("weighing the alternatives")
    offers = {}
    for key in measured.ledger.blocks:
        found = {choices[key].mode: choices[key] for choices in by_mode.values()}
        alternatives = ([_left_dense(found)] if _may_stay_dense(found, settings) else []) + list(found.values())
        rows = typical_rows(measured, alternatives[0].block, settings)
        offers[key] = [_offer(costs.model, choice, rows, shares.get(key, 1.0), settings) for choice in alternatives]
    chosen = {key: min(options, key=lambda offer: offer.seconds) for key, options in offers.items()}
    reasons = dict.fromkeys(chosen, "the cheapest of those weighed")
    if all(offer.choice.mode == "dense" for offer in chosen.values()) and any(map(_sparse, offers.values())):
        key = _least_loss(offers, chosen)
        chosen[key] = min(_sparse(offers[key]), key=lambda offer: offer.seconds)
        reasons[key] = "no block is predicted to gain; this one loses least, and an artifact has at least one"
    blocks = tuple(
        _planned(offer.choice, reasons[key], tuple(o.alternative() for o in offers[key]))
        for key, offer in chosen.items()
    )
    rows = max(typical_rows(measured, offer.choice.block, settings) for offer in chosen.values())
    plan = Plan(blocks=blocks, rows=rows, costs=costs.origin, measured_here=costs.own)
    return {key: offer.choice for key, offer in chosen.items()}, plan


def with_whole_model(
    measured: Measured, plan: Plan, settings: ExportSettings, scratch: Path, progress: Progress
) -> Plan:
    """Add the whole model's predicted time, where the plan's costs are this machine's own."""
    if not plan.measured_here or settings.plan is not None:
        return plan
    progress.step("timing the dense model")
    axes = {block.name: block.rows for block in measured.ledger.blocks.values()}
    whole = whole_model(measured, plan, axes, scratch, load_costs(settings.costs).model.threads)
    return plan.model_copy(update={"whole_model": whole})


def lossless(measured: Measured, settings: ExportSettings, mode: str) -> dict[str, Choice]:
    """Return what a mode does to each block, without thresholds."""
    blocks = list(measured.ledger.blocks.values())
    chosen = choose(blocks, measured.counts, replace(settings, mode=mode, plan=None, density=None))
    return dict(zip(measured.ledger.blocks, chosen, strict=True))


def _choices(measured: Measured, cutter: Cutter, mode: str) -> dict[str, Choice]:
    """Return what a mode does to each block, with the threshold and the cap that a person asked for."""
    choices = lossless(measured, cutter.settings, mode)
    return {key: cutter.as_set(key, choice) for key, choice in choices.items()}


def _left_dense(found: Mapping[BlockMode, Choice]) -> Choice:
    first = next(iter(found.values()))
    return replace(first, mode="dense", top_k=first.block.top_k, screen=None)


def _may_stay_dense(found: Mapping[BlockMode, Choice], settings: ExportSettings) -> bool:
    """Say whether a block may be left as it is: not under what a person asked for and only we keep."""
    first = next(iter(found.values()))
    kept = first.threshold == 0 and (settings.top_k is None or first.top_k == first.block.top_k)
    return "dense" not in found and kept


def _offer(costs: CostModel, choice: Choice, rows: int, candidates: float, settings: ExportSettings) -> Offer:
    share = candidates if choice.mode == "certified" else 1.0
    if choice.mode == "gate":
        share = choice.density.mean
    return Offer(choice, share, price(costs, choice, rows, share, int8=settings.quantize == "int8"))


def _sparse(offers: Sequence[Offer]) -> list[Offer]:
    return [offer for offer in offers if offer.choice.mode != "dense"]


def _least_loss(offers: Mapping[str, Sequence[Offer]], chosen: Mapping[str, Offer]) -> str:
    """Return the block that loses least when it is not left dense, among those that have another choice."""
    losses = {
        key: min(offer.seconds for offer in sparse) - chosen[key].seconds
        for key, options in offers.items()
        if (sparse := _sparse(options))
    }
    return min(losses, key=lambda key: losses[key])


def _given_plan(measured: Measured, cutter: Cutter, path: Path) -> tuple[dict[str, Choice], Plan]:
    """Do what a person's plan says."""
    plan = read_plan(path)
    asked = {block.name: block for block in plan.blocks}
    names = [block.name for block in measured.ledger.blocks.values()]
    if unknown := [name for name in asked if name not in names]:
        raise ConfigurationError(f"{path}: the model has no block {unknown[0]}; expected {', '.join(names)}")
    if missing := [name for name in names if name not in asked]:
        raise ConfigurationError(f"{path}: block {missing[0]} is missing; expected {', '.join(names)}")
    choices = {}
    for key, block in measured.ledger.blocks.items():
        choices[key] = _as_asked(measured, cutter, key, block, asked[block.name], path)
    if all(choice.mode == "dense" for choice in choices.values()):
        raise ConfigurationError(f"{path}: every block is dense; expected at least one that is not")
    blocks = tuple(
        asked[choice.block.name].model_copy(update=_done(choice) | {"mode": asked[choice.block.name].mode})
        for choice in choices.values()
    )
    return choices, plan.model_copy(update={"blocks": blocks})


def _as_asked(measured: Measured, cutter: Cutter, key: str, block: Block, asked: PlannedBlock, path: Path) -> Choice:
    if asked.top_k is not None and asked.top_k > block.d_ff:
        raise ConfigurationError(f"{path}: block {block.name}: top_k is {asked.top_k}; expected at most {block.d_ff}")
    if asked.cuts and asked.mode in {"dense", "predictor"}:
        raise ConfigurationError(f"{path}: block {block.name}: mode {asked.mode} takes no threshold; use exact")
    if asked.target_density is not None and cutter.settings.calibration is None:
        raise ConfigurationError(
            f"{path}: block {block.name} has a target_density, which needs calibration data; give --calibration"
        )
    settings = cutter.settings
    own = settings if asked.top_k is None else replace(settings, top_k=asked.top_k or None)
    # Where its predictor is not admitted, a block is certified.
    mode = {"dense": "exact", "predictor": "certified", "gate": "exact"}.get(asked.mode, asked.mode)
    choice = cutter.as_planned(key, lossless(measured, own, mode)[key], asked)
    if asked.mode == "dense":
        return replace(choice, mode="dense", top_k=block.top_k)
    if asked.mode == "predictor" and choice.mode == "certified":
        return choice
    if choice.mode != asked.mode:
        raise ConfigurationError(f"{path}: block {block.name}: mode {asked.mode} does not fit it; use {choice.mode}")
    return choice


def _planned(choice: Choice, reason: str, alternatives: tuple[Alternative, ...] = ()) -> PlannedBlock:
    return PlannedBlock(name=choice.block.name, reason=reason, alternatives=alternatives, **_done(choice))


def _done(choice: Choice) -> dict[str, Any]:
    cut = choice.threshold > 0 or choice.centre is not None
    return {
        "mode": choice.mode,
        "top_k": choice.top_k,
        "target_density": choice.target,
        "threshold": choice.threshold if cut else None,
        "centred": choice.centre is not None if cut else None,
        "density": choice.density.mean,
    }


def carried_out(plan: Plan, choices: Mapping[str, Choice]) -> Plan:
    """Return the plan with what was done in the end, by the blocks' names; blocks without a choice are as planned."""

    def after(block: PlannedBlock) -> PlannedBlock:
        choice = choices.get(block.name)
        if choice is None:
            return block
        done = _done(choice)
        changed = any(getattr(block, name) != done[name] for name in ("mode", "target_density", "centred"))
        weighed = changed and choice.lossy and block.alternatives
        reason = "the cheapest of those weighed, within the allowed drop of quality" if weighed else block.reason
        return block.model_copy(update=done | {"reason": reason})

    return plan.model_copy(update={"blocks": tuple(after(block) for block in plan.blocks)})
