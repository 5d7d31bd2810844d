"""What an encoder–decoder's decoder gets of a calibration example: its target, one token late."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.sources.dense import DenseModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["DECODER", "encode_target"]

DECODER = "decoder_"
"""How the names of a decoder's own inputs begin."""


@lru_cache(maxsize=1)
def _tokenizer(content: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode_target(dense: DenseModel, target: object, where: str) -> dict[str, NDArray[np.generic]]:
    """Return the decoder's inputs for a target text, none where the model has no decoder beside an encoder.

    They begin with the token that a target begins with and leave out the target's last, which is only predicted.
    Without a target they are that token alone.

    Parameters
    ----------
    target
        What stands beside the text; None: nothing.
    where
        The line, for messages.

    Raises
    ------
    CalibrationError
        If the target is no text, or is longer than the model takes.
    """
    specs = [s for s in dense.inputs if s.name.startswith(DECODER) and s.role in {"tokens", "mask"}]
    if not specs or dense.tokenizer is None:
        return {}
    if target is not None and not isinstance(target, str):
        raise CalibrationError(f'{where}: got "target" {target!r:.40}; expected a text')
    ids = [dense.tokenizer.decoder_start or 0]
    if target is not None:
        ids += _tokenizer(dense.tokenizer.content).encode(target).ids[:-1]
    most = dense.max_lengths.get("target")
    if most is not None and len(ids) > most:
        raise CalibrationError(f"{where}: the target has {len(ids)} tokens; expected at most {most}")
    return {s.name: np.asarray(ids if s.role == "tokens" else [1] * len(ids), s.dtype) for s in specs}
