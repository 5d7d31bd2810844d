"""Text to token ids, by the `tokenizers` library: no transformers, no torch."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lazyneuron.engine.artifact import InputSpec, Manifest
from lazyneuron.engine.errors import ArtifactError, InputError
from lazyneuron.engine.requests import Array

__all__ = ["TextEncoder"]


class TextEncoder:
    """A model's tokenizer, giving the arrays that its inputs want.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    inputs
        The model's inputs; those of the roles tokens, mask and token_types are filled.
    max_length
        Longer texts are refused, since a cut one would be another text.
    """

    def __init__(self, tokenizer: Tokenizer, inputs: tuple[InputSpec, ...], max_length: int) -> None:
        self._tokenizer = tokenizer
        self._inputs = [spec for spec in inputs if spec.role != "data"]
        self._max_length = max_length

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
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, manifest.inputs, manifest.tokenizer.max_length)

    def encode(self, text: str) -> dict[str, Array]:
        """Return the inputs for one text, each of shape [1, tokens].

        Raises
        ------
        InputError
            If the text gives no token, or more than the model takes.
        """
        encoding = self._tokenizer.encode(text)
        count = len(encoding.ids)
        if not 1 <= count <= self._max_length:
            raise InputError("text", got=f"{count} tokens", expected=f"1 to {self._max_length}")
        by_role = {"tokens": encoding.ids, "mask": encoding.attention_mask, "token_types": encoding.type_ids}
        return {spec.name: np.asarray([by_role[spec.role]], spec.dtype) for spec in self._inputs}
