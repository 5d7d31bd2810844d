"""What a request may be at most, whatever the model: `[limits]` of the configuration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lazyneuron.engine.artifact import BATCH_AXIS
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.requests import Request
from lazyneuron.server.config import LimitsConfig

__all__ = ["check_inputs", "check_request"]


def check_inputs(limits: LimitsConfig, inputs: object) -> None:
    """Check how many axes each array has, or how long a text is, before anything else reads it.

    A tokenizer takes hundreds of bytes for each of a text's, even where it then cuts the text off.

    Raises
    ------
    InputError
        Naming the input, what was got and what was expected.
    """
    if isinstance(inputs, str) and len(inputs) > limits.max_characters:
        raise _refusal("text", f"{len(inputs)} characters", limits.max_characters, "max_characters")
    if not isinstance(inputs, Mapping):
        return
    for name, array in inputs.items():
        rank = _rank(array)
        if rank > limits.max_rank:
            raise _refusal(str(name)[:80], f"rank {rank}", limits.max_rank, "max_rank")


def check_request(limits: LimitsConfig, request: Request) -> None:
    """Check a request's examples, lengths and tokens.

    Raises
    ------
    InputError
        Naming the axis, what was got and what was expected.
    """
    if request.tokens > limits.max_tokens:
        raise _refusal("inputs", f"{request.tokens} tokens", limits.max_tokens, "max_tokens")
    for axis, length in request.axes.items():
        name = "max_batch" if axis == BATCH_AXIS else "max_length"
        most = limits.max_batch if axis == BATCH_AXIS else limits.max_length
        if length > most:
            raise _refusal("inputs", f"{axis} {length}", most, name)


def _rank(array: Any) -> int:  # noqa: ANN401  whatever a message holds
    return array.ndim if isinstance(array, np.ndarray) else 0


def _refusal(field: str, got: str, most: int, name: str) -> InputError:
    return InputError(field, got=got, expected=f"at most {most} (the server's limits.{name})", refusal="too_large")
