"""A dense ONNX model and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from lazyneuron.engine.artifact import ImageSpec, InputSpec, OutputSpec, Problem, Source

__all__ = ["DenseModel", "Tokenizer"]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How text becomes tokens.

    Attributes
    ----------
    content
        What stands in `tokenizer.json`.
    max_length
        The most tokens that the model takes.
    truncate
        The side on which longer texts are cut; None: they are refused.
    mask_token
        What stands for the word to fill in.
    decoder_start
        The token that an encoder–decoder's target begins with.
    """

    content: str
    max_length: int
    truncate: Literal["left", "right"] | None = None
    mask_token: str | None = None
    decoder_start: int | None = None


@dataclass(frozen=True, slots=True)
class DenseModel:
    """A dense ONNX model and what is known of it.

    Attributes
    ----------
    model
        In plain ONNX operators; its symbolic axes carry the names of `inputs`.
    source
        Where it came from.
    inputs, outputs
        As the manifest describes them.
    task
        What the model is for.
    max_lengths
        The greatest length of ragged axes, where it is known.
    length
        A length of the ragged axes that the model is known to take, for random input.
    tokenizer
        None where no text goes in.
    labels
        The classes' names.
    image
        None where no image goes in, or its preprocessing is not known.
    problem
        What a classifier's logits are.
    notes
        What a person should know of the reading, in sentences.
    top_k
        The most neurons that a row used in a block when the model was fine-tuned; None where there was no such cap.
    """

    model: ir.Model
    source: Source
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    task: str
    max_lengths: Mapping[str, int] = field(default_factory=dict)
    length: int = 16
    tokenizer: Tokenizer | None = None
    labels: tuple[str, ...] | None = None
    image: ImageSpec | None = None
    problem: Problem | None = None
    notes: tuple[str, ...] = ()
    top_k: int | None = None
