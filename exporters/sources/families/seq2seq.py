"""Encoder–decoders of text: T5, BART, Marian, M2M100 and those that are called as they are.

A whole one is one graph of both halves, which takes the target's tokens so far and gives the logits of what follows;
the encoder alone is the task `feature-extraction`.
"""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head, longest, target_inputs, text_inputs

__all__ = ["FAMILY", "HEADS", "whole_inputs"]

_RELATIVE = {"t5", "mt5", "umt5", "longt5", "switch_transformers"}
"""Their positions are relative: no length is too great."""

HEADS = (
    Head("seq2seq", "ForConditionalGeneration", "AutoModelForSeq2SeqLM", ("logits",)),
    Head("seq2seq", "MTModel", "AutoModelForSeq2SeqLM", ("logits",)),
    Head("feature-extraction", "T5EncoderModel", "AutoModelForTextEncoding", ("last_hidden_state",)),
    Head("feature-extraction", "Model", "AutoModel", ("last_hidden_state",), encoder=True),
)


def whole_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Make token ids and a mask for each half."""
    return text_inputs(config, batch, length) | target_inputs(config, batch, length)


def _positions(config: Config) -> int | None:
    return None if config.model_type in _RELATIVE else longest(config)


FAMILY = Family(
    model_types=("t5", "mt5", "bart", "mbart", "marian", "m2m_100", "pegasus"),
    heads=HEADS,
    inputs=whole_inputs,
    ragged={1: "sequence"},
    max_length=_positions,
    target={1: "target"},
    max_target=_positions,
)
