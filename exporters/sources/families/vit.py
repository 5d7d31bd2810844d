"""ViT and the image encoders that take pixels of one size."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head

__all__ = ["FAMILY", "HEADS", "image_inputs"]

_DEFAULT_SIZE = 224
"""Of models that take any size and name none, as most of them were trained."""

HEADS = (
    Head("image-feature-extraction", "Model", "AutoModel", ("last_hidden_state",)),
    Head("image-classification", "ForImageClassification", "AutoModelForImageClassification", ("logits",)),
    Head("image-classification", "ForImageClassificationWithTeacher", "AutoModelForImageClassification", ("logits",)),
)


def image_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:  # noqa: ARG001 (an image has none)
    """Make pixels of the model's size, float32 [batch, channels, height, width]."""
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or _DEFAULT_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(config, "num_channels", 3)
    values = torch.linspace(-1, 1, batch * channels * height * width)
    return {"pixel_values": values.reshape(batch, channels, height, width)}


FAMILY = Family(
    model_types=("vit", "deit"),
    heads=HEADS,
    inputs=image_inputs,
    ragged={},
    max_length=lambda config: None,  # noqa: ARG005 (an image has none)
)
