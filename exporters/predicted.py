"""Predictors: those that a person's mode or plan asks for, and those that may be cheaper than what loses nothing."""

from collections.abc import Mapping

from lazyneuron.engine.cost import CostModel
from lazyneuron.engine.cost_files import load_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.cutting import weighs_losses
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.offers import Offer
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.plan_file import Plan, read_plan
from lazyneuron.exporters.planner import price, typical_rows
from lazyneuron.exporters.predictors.predictor import Predictor
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["may_predict", "offer_predictors", "trained_predictors"]

_ABOUT_RECALL = 0.99
"""No predictor has fewer candidates than the active neurons that it keeps."""


def may_predict(settings: ExportSettings) -> bool:
    """Say whether predictors may be trained, for which the counting graph has to give rows.

    Raises
    ------
    ConfigurationError
        If a person's plan asks for one without calibration data, or cannot be read.
    """
    if settings.plan is None:
        return settings.mode == "predictor" or (weighs_losses(settings) and settings.calibration is not None)
    asked = [block.name for block in read_plan(settings.plan).blocks if block.mode == "predictor"]
    if asked and settings.calibration is None:
        raise ConfigurationError(
            f"{settings.plan}: block {asked[0]} is in mode predictor, which needs calibration data; give --calibration"
        )
    return bool(asked)


def trained_predictors(
    choices: Mapping[str, Choice], plan: Plan, measured: Measured, settings: ExportSettings, progress: Progress
) -> dict[str, Predictor | None]:
    """Train the predictors that a person's mode or plan asks for; None where one cannot pay.

    Parameters
    ----------
    choices
        What is done to blocks without a predictor, those that stay dense included.
    """
    if settings.mode == "predictor":
        # Of those that stay dense hardly a neuron is zero.
        only = [key for key, choice in choices.items() if choice.mode != "dense"]
        return _train(measured, settings, progress, only)
    asked = {block.name for block in plan.blocks if settings.plan is not None and block.mode == "predictor"}
    only = [key for key, choice in choices.items() if choice.block.name in asked]
    return _train(measured, settings, progress, only) if only else {}


def offer_predictors(
    base: Mapping[str, Offer], measured: Measured, settings: ExportSettings, progress: Progress
) -> dict[str, Offer]:
    """Train predictors for the blocks where the best that one can be is cheaper than the best without any.

    Parameters
    ----------
    base
        The cheapest for each block of what loses nothing.

    Raises
    ------
    CalibrationError
        If there is too little data for predictors.
    """
    costs = load_costs(settings.costs).model
    hopeful = [key for key, offer in base.items() if _hopeful(offer, costs, measured, settings)]
    trained = _train(measured, settings, progress, hopeful) if hopeful else {}
    return {
        key: _offer(base[key].choice, predictor, costs, measured, settings)
        for key, predictor in trained.items()
        if predictor is not None
    }


def _train(
    measured: Measured, settings: ExportSettings, progress: Progress, only: list[str]
) -> dict[str, Predictor | None]:
    from lazyneuron.exporters.predictors import train_predictors  # it brings torch

    return train_predictors(measured, settings, progress, only=only)


def _hopeful(best: Offer, costs: CostModel, measured: Measured, settings: ExportSettings) -> bool:
    """Say whether a predictor of the least rank, with no candidate but active neurons, would be cheaper."""
    from lazyneuron.exporters.predictors.block import least_rank

    choice = best.choice
    if not choice.block.screenable:
        return False
    rank = settings.predictor_rank or least_rank(choice.block.d_model)
    return _seconds(choice, rank, _ABOUT_RECALL * choice.density.mean, costs, measured, settings) < best.seconds


def _offer(
    choice: Choice, predictor: Predictor, costs: CostModel, measured: Measured, settings: ExportSettings
) -> Offer:
    held_out = predictor.held_out
    assert held_out is not None
    seconds = _seconds(choice, predictor.rank, held_out.candidates, costs, measured, settings)
    return Offer(choice.predicted(predictor), held_out.candidates, seconds)


def _seconds(
    choice: Choice, rank: int, candidates: float, costs: CostModel, measured: Measured, settings: ExportSettings
) -> float:
    rows = typical_rows(measured, choice.block, settings)
    predicted = choice.as_predictor()
    return price(costs, predicted, rows, candidates, int8=settings.quantize == "int8", rank=rank)
