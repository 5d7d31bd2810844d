"""Text to token ids, and ids to words, by the `tokenizers` library: no transformers, no torch."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lazyneuron.engine.artifact import InputSpec, Manifest, TokenizerSpec
from lazyneuron.engine.errors import ArtifactError, InputError
from lazyneuron.engine.origins import Text, Token
from lazyneuron.engine.requests import Array

__all__ = ["TextEncoder"]

_DECODER = "decoder_"


class TextEncoder:
    """A model's tokenizer, giving the arrays that its inputs want.

    Parameters
    ----------
    tokenizer
        The tokenizer; its own padding and truncation are turned off.
    inputs
        The model's inputs; those of the roles tokens, mask and token_types are filled.
    spec
        The most tokens, and what becomes of a longer text.
    must_mask
        Whether a text has to have a mask token in it, as for fill-mask.
    """

    def __init__(
        self, tokenizer: Tokenizer, inputs: tuple[InputSpec, ...], spec: TokenizerSpec, *, must_mask: bool = False
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if spec.truncate is not None:
            tokenizer.enable_truncation(spec.max_length, direction=spec.truncate)
        self._tokenizer = tokenizer
        self._inputs = [i for i in inputs if i.role != "data"]
        self._spec = spec
        self._must_mask = must_mask
        self.mask_id: int | None = tokenizer.token_to_id(spec.mask_token) if spec.mask_token is not None else None
        """The mask token's place in the vocabulary; None: there is none."""

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> "TextEncoder | None":
        """Load the tokenizer of the artifact in `folder`; None where it has none.

        Raises
        ------
        ArtifactError
            If the tokenizer's file cannot be read.
        """
        if manifest.tokenizer is None:
            return None
        path = folder / manifest.tokenizer.file
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(f"{path}: not a tokenizer: {error}") from error
        return cls(tokenizer, manifest.inputs, manifest.tokenizer, must_mask=manifest.task == "fill-mask")

    def encode(self, text: str) -> tuple[dict[str, Array], Text]:
        """Return the inputs for one text, each of shape [1, tokens], and its tokens.

        A decoder's own inputs, beside an encoder's, hold the token that a target begins with.

        Raises
        ------
        InputError
            If the text gives no token, more than the model takes, or lacks the mask token that is to be filled.
        """
        encoding = self._tokenizer.encode(text)
        count, own = len(encoding.ids), encoding.special_tokens_mask.count(0)
        if own == 0 or count > self._spec.max_length:
            raise InputError("text", got=f"{count if own else 0} tokens", expected=f"1 to {self._spec.max_length}")
        if self._must_mask and self.mask_id is not None and self.mask_id not in encoding.ids:
            raise InputError(
                "text", got="no mask token", expected=f"{self._spec.mask_token} where a word is to be filled in"
            )
        by_role = {"tokens": encoding.ids, "mask": encoding.attention_mask, "token_types": encoding.type_ids}
        start = self._spec.decoder_start
        target = by_role if start is None else {"tokens": [start], "mask": [1], "token_types": [0]}
        inputs: dict[str, Array] = {
            spec.name: np.asarray([(target if spec.name.startswith(_DECODER) else by_role)[spec.role]], spec.dtype)
            for spec in self._inputs
        }
        added = encoding.special_tokens_mask
        tokens = zip(encoding.ids, encoding.tokens, encoding.offsets, added, strict=True)
        return inputs, Text(tuple(Token(i, piece, None if a else span, bool(a)) for i, piece, span, a in tokens))

    def word(self, token: int) -> str:
        """Return a token as text; as its piece where it is none by itself, such as a part of a character."""
        word = self._tokenizer.decode([token], skip_special_tokens=False)
        return word if word and "\ufffd" not in word else self.piece(token)

    def piece(self, token: int) -> str:
        """Return a token as the vocabulary has it; its number where it has none."""
        piece = self._tokenizer.id_to_token(token)
        return str(token) if piece is None else piece
