"""What differs by model family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Config", "Family", "Head", "longest", "target_inputs", "text_config", "text_inputs"]

Config = Any
"""A transformers configuration: its attributes differ by family."""

_LENGTHS = ("max_position_embeddings", "n_positions", "max_source_positions")
_DECODER = "decoder_"


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
    outputs
        The fields of its answer that become the graph's outputs.
    encoder
        Whether only the encoder of a model with two halves is taken.
    """

    task: str
    suffix: str
    loader: str
    outputs: tuple[str, ...]
    encoder: bool = False


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
        Makes example inputs of a batch size and a length; those that a model does not take are left out.
    ragged
        Which axes besides the batch may differ, and their names.
    max_length
        The most positions; None where there is no limit.
    target
        Likewise the axes of a decoder's own inputs, whose names begin with `decoder_`.
    max_target
        The most positions of the decoder.
    fixed
        The inputs of which no axis but the batch may differ.
    """

    model_types: tuple[str, ...]
    heads: tuple[Head, ...]
    inputs: Callable[[Config, int, int], dict[str, torch.Tensor]]
    ragged: Mapping[int, str]
    max_length: Callable[[Config], int | None]
    target: Mapping[int, str] = field(default_factory=dict)
    max_target: Callable[[Config], int | None] = lambda config: None  # noqa: ARG005 (no limit)
    fixed: tuple[str, ...] = ()

    def head(self, architecture: str, task: str | None) -> Head | None:
        """Return the head for a task, or else for the checkpoint's architecture; None if the task has none.

        Of several heads for one task the one that the checkpoint's architecture names goes first.
        """
        named = [h for h in self.heads if architecture.endswith(h.suffix)]
        if task is not None:
            return next((h for h in (*named, *self.heads) if h.task == task), None)
        return next(iter(named), self.heads[0])

    def axes(self, name: str) -> Mapping[int, str]:
        """Return the axes of an input that may differ besides the batch, and their names."""
        if name in self.fixed:
            return {}
        return self.target if name.startswith(_DECODER) else self.ragged

    def max_lengths(self, config: Config) -> dict[str, int]:
        """Return the greatest length of each axis that has one."""
        found = {}
        for axes, most in ((self.ragged, self.max_length(config)), (self.target, self.max_target(config))):
            found.update({} if most is None else dict.fromkeys(axes.values(), most))
        return found


def text_config(config: Config) -> Config:
    """Return the part of a configuration that describes the text model."""
    return config.get_text_config()


def longest(config: Config) -> int | None:
    """Return the most positions of a text model, under whichever name its configuration has it."""
    config = text_config(config)
    found = (getattr(config, name, None) for name in _LENGTHS)
    return next((int(n) for n in found if isinstance(n, int) and n > 0), None)


def text_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Make token ids and an attention mask; the padding token is not among the ids."""
    config = text_config(config)
    first = max(i if isinstance(i, int) else 0 for i in (getattr(config, "pad_token_id", None), 0)) + 1
    ids = torch.arange(batch * length).reshape(batch, length) % max(config.vocab_size - first, 1) + first
    ids = ids % config.vocab_size
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def target_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Make what a decoder beside an encoder takes; its length differs from the encoder's."""
    made = text_inputs(config, batch, max(length - 4, 2))
    return {f"{_DECODER}{name}": tensor for name, tensor in made.items()}
