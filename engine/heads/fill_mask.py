"""Fill-mask: logits [tokens, vocabulary] to the words for each mask."""

from collections.abc import Callable, Sequence

from lazyneuron.engine.heads.answers import FilledMask, FilledMasks
from lazyneuron.engine.heads.scores import candidates, softmax
from lazyneuron.engine.origins import Token
from lazyneuron.engine.requests import Array

__all__ = ["fill_masks"]


def fill_masks(
    logits: Array, tokens: Sequence[Token], mask: int | None, word: Callable[[int], str], top: int
) -> FilledMasks:
    """Return the `top` best words for each mask.

    Parameters
    ----------
    logits
        [tokens, vocabulary]
    mask
        The mask token's id; None: the model has none.
    word
        Gives a token's text by its id.
    """
    places = [place for place, token in enumerate(tokens) if token.id == mask]
    return FilledMasks(tuple(FilledMask(p, tokens[p].span, candidates(softmax(logits[p]), top, word)) for p in places))
