"""Which blocks may use their predictors, so that all of them together cost no more quality than a person allows."""

from collections.abc import Callable, Mapping

from lazyneuron.exporters.comparison import Comparison
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.predictors.predictor import Predictor
from lazyneuron.exporters.quality import drop

__all__ = ["admit"]

Choices = Mapping[str, Choice]


def admit(
    choices: Choices,
    predictors: Mapping[str, Predictor | None],
    most: float | None,
    compare: Callable[[Choices], Comparison],
) -> tuple[Choices, Comparison, tuple[str, ...]]:
    """Give blocks their predictors, the worst last, as far as the measured loss of quality is within what is allowed.

    Worst is who loses the largest share of its output's energy on held-out rows. How many are admitted is found by
    halving, with a whole comparison on held-out data for each try.

    Parameters
    ----------
    choices
        What is done to blocks without a predictor, those that stay dense included.
    predictors
        By the choices' names, where one was asked for; None where it cannot pay.
    most
        The allowed loss, as `quality.drop` measures it; None: any.
    compare
        Rewrites the graph and compares it with the dense one.

    Returns
    -------
    The choices but those that stay dense, their comparison, and what a person should know of it.
    """
    offered = {key: found for key, found in predictors.items() if found is not None}
    order = sorted(offered, key=lambda key: _lost(offered[key]))

    def attempt(count: int) -> tuple[Choices, Comparison]:
        admitted = {key: choices[key].predicted(offered[key]) for key in order[:count]}
        tried = {key: admitted.get(key, choice) for key, choice in choices.items()}
        tried = {key: choice for key, choice in tried.items() if choice.mode != "dense"}
        return tried, compare(tried)

    best = attempt(len(order))
    fits, above = 0, len(order)
    if most is not None and order and drop(best[1].quality) > most:
        best = attempt(0)
        while above - fits > 1:
            middle = (fits + above) // 2
            tried = attempt(middle)
            if drop(tried[1].quality) <= most:
                fits, best = middle, tried
            else:
                above = middle
    return *best, tuple(_notes(choices, predictors, best, most))


def _lost(predictor: Predictor) -> float:
    return 1.0 if predictor.held_out is None else 1 - predictor.held_out.energy


def _notes(
    choices: Choices, predictors: Mapping[str, Predictor | None], best: tuple[Choices, Comparison], most: float | None
) -> list[str]:
    chosen, comparison = best
    notes = []
    for key, predictor in predictors.items():
        choice = choices[key]
        if predictor is None and choice.mode != "exact":
            notes.append(f"{choice.block.name} is {choice.mode}: no predictor would cost less than it saves.")
        elif predictor is not None and (key not in chosen or chosen[key].mode != "predictor"):
            notes.append(
                f"{choice.block.name} is {choice.mode}: its predictor would let the quality drop by more than {most:g}."
            )
    if any(choice.mode == "predictor" for choice in chosen.values()):
        notes.append(f"The predictors cost {100 * drop(comparison.quality):.2f} % of quality on held-out data.")
    return notes
