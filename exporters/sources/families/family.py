"""What differs by model family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Config", "Family", "Head", "text_inputs"]

Config = Any
"""A transformers configuration: its attributes differ by family."""


@dataclass(frozen=True, slots=True)
class Head:
    """One way to load a checkpoint.

    Attributes
    ----------
    task
        What it is for.
    suffix
        How the checkpoint's `architectures` entry ends.
    loader
        The class of transformers that loads it.
    output
        The field of its answer that becomes the graph's output.
    """

    task: str
    suffix: str
    loader: str
    output: str


@dataclass(frozen=True, slots=True)
class Family:
    """What differs by model family.

    Attributes
    ----------
    model_types
        The `model_type` of the configurations it takes.
    heads
        The first is taken where neither the person nor the checkpoint names one.
    inputs
        Makes example inputs of a batch size and a length.
    ragged
        Which axes besides the batch may differ, and their names.
    max_length
        The most positions; None where there is no limit.
    """

    model_types: tuple[str, ...]
    heads: tuple[Head, ...]
    inputs: Callable[[Config, int, int], dict[str, torch.Tensor]]
    ragged: Mapping[int, str]
    max_length: Callable[[Config], int | None]

    def head(self, architecture: str, task: str | None) -> Head | None:
        """Return the head for a task, or else for the checkpoint's architecture; None if the task has none."""
        if task is not None:
            return next((h for h in self.heads if h.task == task), None)
        return next((h for h in self.heads if architecture.endswith(h.suffix)), self.heads[0])


def text_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Make token ids and an attention mask; the padding token is not among the ids."""
    first = max(i if isinstance(i, int) else 0 for i in (config.pad_token_id, 0)) + 1
    ids = torch.arange(batch * length).reshape(batch, length) % max(config.vocab_size - first, 1) + first
    ids = ids % config.vocab_size
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
