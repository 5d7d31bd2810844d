"""Token classification: logits [tokens, classes] to the classes of each word piece."""

from collections.abc import Sequence

from lazyneuron.engine.heads.answers import TokenLabel, TokenLabels
from lazyneuron.engine.heads.scores import candidates, class_name, softmax
from lazyneuron.engine.origins import Token
from lazyneuron.engine.requests import Array

__all__ = ["label_tokens"]


def label_tokens(logits: Array, tokens: Sequence[Token], labels: Sequence[str] | None, top: int) -> TokenLabels:
    """Return the `top` best classes of each token that the tokenizer did not add.

    Parameters
    ----------
    logits
        [tokens, classes]
    """
    scores, name = softmax(logits), class_name(labels)
    return TokenLabels(
        tuple(
            TokenLabel(token.piece, token.span, candidates(row, top, name))
            for token, row in zip(tokens, scores, strict=True)
            if not token.added
        )
    )
