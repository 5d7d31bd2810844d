"""ViT."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head

__all__ = ["FAMILY"]


def _inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:  # noqa: ARG001 (an image has none)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "pixel_values": torch.linspace(-1, 1, batch * config.num_channels * height * width).reshape(
            batch, -1, height, width
        )
    }


FAMILY = Family(
    model_types=("vit", "deit"),
    heads=(
        Head("image-feature-extraction", "Model", "AutoModel", "last_hidden_state"),
        Head("image-classification", "ForImageClassification", "AutoModelForImageClassification", "logits"),
    ),
    inputs=_inputs,
    ragged={},
    max_length=lambda config: None,  # noqa: ARG005 (an image has none)
)
