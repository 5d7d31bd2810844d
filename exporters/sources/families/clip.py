"""CLIP and its like: a text and an image in, the embedding of each out; the halves alone are models of their own."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head, longest, text_inputs
from lazyneuron.exporters.sources.families.vit import image_inputs

__all__ = ["FAMILY"]


def _inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    return text_inputs(config, batch, length) | image_inputs(config, batch, length)


FAMILY = Family(
    model_types=("clip", "siglip"),
    heads=(Head("feature-extraction", "Model", "AutoModel", ("text_embeds", "image_embeds")),),
    inputs=_inputs,
    ragged={1: "sequence"},
    max_length=longest,
    fixed=("pixel_values",),
)
