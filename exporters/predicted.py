"""Which blocks are offered predictors: by a person's mode or plan, or by predicted cost under an allowed loss."""

from collections.abc import Mapping
from dataclasses import dataclass

from lazyneuron.engine.cost import CostModel
from lazyneuron.engine.cost_files import load_costs
from lazyneuron.engine.errors import CalibrationError, ConfigurationError
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.plan_file import Alternative, Plan, read_plan
from lazyneuron.exporters.planner import price, significant, typical_rows
from lazyneuron.exporters.predictors.predictor import Predictor
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["Offers", "may_predict", "offer_predictors"]

_ABOUT_RECALL = 0.99
"""No predictor has fewer candidates than the active neurons that it keeps."""


@dataclass(frozen=True, slots=True)
class Offers:
    """Predictors that blocks may use.

    Attributes
    ----------
    predictors
        By the names of the blocks' outputs, where one was asked for; None where it cannot pay.
    plan
        The plan, with what they are predicted to cost where that was weighed.
    notes
        What a person should know of it.
    """

    predictors: Mapping[str, Predictor | None]
    plan: Plan
    notes: tuple[str, ...] = ()


def may_predict(settings: ExportSettings) -> bool:
    """Say whether predictors may be trained, for which the counting graph has to give rows.

    Raises
    ------
    ConfigurationError
        If a person's plan asks for one without calibration data, or cannot be read.
    """
    if settings.plan is None:
        return settings.mode == "predictor" or (_weighs(settings) and settings.calibration is not None)
    asked = [block.name for block in read_plan(settings.plan).blocks if block.mode == "predictor"]
    if asked and settings.calibration is None:
        raise ConfigurationError(
            f"{settings.plan}: block {asked[0]} is in mode predictor, which needs calibration data; give --calibration"
        )
    return bool(asked)


def _weighs(settings: ExportSettings) -> bool:
    return settings.plan is None and settings.mode == "auto" and bool(settings.max_quality_drop)


def offer_predictors(
    choices: Mapping[str, Choice], plan: Plan, measured: Measured, settings: ExportSettings, progress: Progress
) -> Offers:
    """Train the predictors that a mode or a plan asks for, or that may be cheaper than what was chosen.

    Parameters
    ----------
    choices
        What is done to blocks without a predictor, those that stay dense included.
    """
    if settings.mode == "predictor":
        # Of those that stay dense hardly a neuron is zero.
        only = [key for key, choice in choices.items() if choice.mode != "dense"]
        return Offers(_train(measured, settings, progress, only), plan)
    if settings.plan is not None:
        asked = {block.name for block in plan.blocks if block.mode == "predictor"}
        only = [key for key, choice in choices.items() if choice.block.name in asked]
        return Offers(_train(measured, settings, progress, only) if only else {}, plan)
    if not _weighs(settings):
        return Offers({}, plan)
    if settings.calibration is None:
        return Offers({}, plan, ("Predictors were not weighed: they need calibration data.",))
    return _weighed(choices, plan, measured, settings, progress)


def _train(
    measured: Measured, settings: ExportSettings, progress: Progress, only: list[str]
) -> dict[str, Predictor | None]:
    from lazyneuron.exporters.predictors import train_predictors  # it brings torch

    return train_predictors(measured, settings, progress, only=only)


def _weighed(
    choices: Mapping[str, Choice], plan: Plan, measured: Measured, settings: ExportSettings, progress: Progress
) -> Offers:
    """Train where the best that a predictor can be is cheaper than what was chosen; offer where it then is."""
    costs = load_costs(settings.costs).model
    best = {block.name: block.predicted for block in plan.blocks}
    hopeful = [
        key for key, choice in choices.items() if _hopeful(choice, best[choice.block.name], costs, measured, settings)
    ]
    if not hopeful:
        return Offers({}, plan)
    try:
        trained = _train(measured, settings, progress, hopeful)
    except CalibrationError as error:
        return Offers({}, plan, (f"Predictors were not weighed: {error}",))
    priced = {
        key: _alternative(choices[key], predictor, costs, measured, settings)
        for key, predictor in trained.items()
        if predictor is not None
    }
    plan = plan.weighed_too({choices[key].block.name: found for key, found in priced.items()})
    cheaper = {
        key: trained[key]
        for key, found in priced.items()
        if found.microseconds_per_row < (best[choices[key].block.name] or 0.0)
    }
    return Offers(cheaper, plan)


def _hopeful(
    choice: Choice, best: float | None, costs: CostModel, measured: Measured, settings: ExportSettings
) -> bool:
    """Say whether a predictor of the least rank, with no candidate but active neurons, would be cheaper."""
    from lazyneuron.exporters.predictors.block import least_rank

    if best is None or not choice.block.screenable:
        return False
    rank = settings.predictor_rank or least_rank(choice.block.d_model)
    return 1e6 * _seconds(choice, rank, _ABOUT_RECALL * choice.density.mean, costs, measured, settings) < best


def _alternative(
    choice: Choice, predictor: Predictor, costs: CostModel, measured: Measured, settings: ExportSettings
) -> Alternative:
    held_out = predictor.held_out
    assert held_out is not None
    seconds = _seconds(choice, predictor.rank, held_out.candidates, costs, measured, settings)
    return Alternative(
        mode="predictor",
        microseconds_per_row=significant(1e6 * seconds),
        candidates=held_out.candidates,
        rank=predictor.rank,
        recall=held_out.recall,
    )


def _seconds(
    choice: Choice, rank: int, candidates: float, costs: CostModel, measured: Measured, settings: ExportSettings
) -> float:
    rows = typical_rows(measured, choice.block, settings)
    predicted = choice.as_predictor()
    return price(costs, predicted, rows, candidates, int8=settings.quantize == "int8", rank=rank)
