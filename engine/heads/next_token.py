"""Text generation: logits [tokens, vocabulary] to what may follow the last token."""

from collections.abc import Callable

from lazyneuron.engine.heads.answers import NextToken
from lazyneuron.engine.heads.scores import candidates, softmax
from lazyneuron.engine.requests import Array

__all__ = ["next_token"]


def next_token(logits: Array, word: Callable[[int], str], top: int) -> NextToken:
    """Return the `top` most probable next tokens.

    Parameters
    ----------
    logits
        [tokens, vocabulary]
    word
        Gives a token's text by its id.
    """
    return NextToken(candidates(softmax(logits[-1]), top, word))
