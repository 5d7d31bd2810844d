"""How much of what loses quality may be done, so that the whole costs no more of it than a person allows."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.comparison import Comparison
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.quality import drop

__all__ = ["admit", "one_by_one"]

Choices = Mapping[str, Choice]


def one_by_one(base: Choices, wanted: Mapping[str, Choice | None]) -> list[Choices]:
    """Return the choices with none, one, two … of those that a person asked for, the worst last.

    Worst is who loses the largest share of its output: a predictor of the energy on held-out rows, a threshold by the
    root of the mean squared error on calibration rows.

    Parameters
    ----------
    base
        What is done to all blocks otherwise, those that stay dense included.
    wanted
        By the same names; None where nothing came of what was asked for.
    """
    found = {key: choice for key, choice in wanted.items() if choice is not None}
    order = sorted(found, key=lambda key: _lost(found[key]))
    return [{**base, **{key: found[key] for key in order[:count]}} for count in range(len(order) + 1)]


def admit(
    rungs: Sequence[Choices],
    most: float | None,
    compare: Callable[[Choices], Comparison],
    offered: Mapping[str, Sequence[Choice]] | None = None,
) -> tuple[Choices, Comparison, tuple[str, ...]]:
    """Take the last of several choices whose measured loss of quality is within what is allowed.

    It is found by halving, with a whole comparison on held-out data for each try.

    Parameters
    ----------
    rungs
        Choices of all blocks, those that stay dense included, by growing loss; the first loses nothing that the loss
        is counted for, and is taken where no other may be.
    most
        The allowed loss, as `quality.drop` measures it; None: any, and the last is taken.
    compare
        Rewrites the graph and compares it with the dense one.
    offered
        What was offered instead of the first choices, if more than the others of them.

    Returns
    -------
    The choices but those that stay dense, their comparison, and what a person should know of it.

    Raises
    ------
    CheckpointError
        If every block of what may be taken stays dense.
    """

    def attempt(number: int) -> tuple[Choices, Comparison]:
        tried = {key: choice for key, choice in rungs[number].items() if choice.mode != "dense"}
        return tried, compare(tried)

    # Where all blocks stay dense there is nothing to compare.
    first_is_dense = all(choice.mode == "dense" for choice in rungs[0].values())
    top = len(rungs) - 1
    best = None if first_is_dense and not top else attempt(top)
    if best is not None and most is not None and top and drop(best[1].quality) > most:
        best = None if first_is_dense else attempt(0)
        fits, above = 0, top
        while above - fits > 1:
            middle = (fits + above) // 2
            tried = attempt(middle)
            if drop(tried[1].quality) <= most:
                fits, best = middle, tried
            else:
                above = middle
    if best is None:
        raise CheckpointError(
            f"no block can be made sparser at a predicted gain within the allowed drop of quality ({most:g}); "
            "allow more with --max-quality-drop"
        )
    return *best, tuple(_notes(rungs, offered or {}, best, most))


def _lost(choice: Choice) -> float:
    if choice.predictor is None:
        return choice.error
    held_out = choice.predictor.held_out
    return 1.0 if held_out is None else 1 - held_out.energy


def _notes(
    rungs: Sequence[Choices],
    offered: Mapping[str, Sequence[Choice]],
    best: tuple[Choices, Comparison],
    most: float | None,
) -> Iterator[str]:
    chosen, comparison = best
    for key, base in rungs[0].items():
        instead = offered.get(key) or [rung[key] for rung in rungs[1:] if rung[key] is not base]
        if instead and chosen.get(key, base) is base:
            what = f"its {_what(instead)} would let the quality drop by more than {most:g}"
            yield f"{base.block.name} is {base.mode}: {what}."
    lossy = [choice for choice in chosen.values() if choice.mode == "predictor" or choice.threshold > 0]
    if lossy:
        what = _what(lossy, plural=True)
        yield f"The {what} cost {100 * drop(comparison.quality):.2f} % of quality on held-out data."
    cut = [(choice, share) for choice, share in zip(chosen.values(), comparison.active, strict=True) if _is_cut(choice)]
    if cut:
        neurons = sum(choice.block.d_ff for choice, _ in cut)
        kept = sum(choice.block.d_ff * choice.density.mean for choice, _ in cut) / neurons
        active = sum(choice.block.d_ff * share for choice, share in cut) / neurons
        centred = sum(choice.centre is not None for choice, _ in cut)
        means = f"; in {centred} of them what is left out counts with its mean" if centred else ""
        yield (
            f"Small values are left out in {len(cut)} of {len(chosen)} blocks: {kept:.1%} of their neurons are kept on "
            f"calibration data, {active:.1%} on held-out data{means}."
        )


def _is_cut(choice: Choice) -> bool:
    return choice.threshold > 0 or choice.centre is not None


def _what(choices: Sequence[Choice], *, plural: bool = False) -> str:
    predicted = any(choice.mode == "predictor" for choice in choices)
    cut = any(_is_cut(choice) for choice in choices)
    s = "s" if plural else ""
    return " and ".join(name for name, there in ((f"predictor{s}", predicted), (f"threshold{s}", cut)) if there)
