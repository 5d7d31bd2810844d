"""DETR: images of any size in, class logits and boxes out."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head

__all__ = ["FAMILY", "HEADS"]

_EXAMPLE = (96, 128)

HEADS = (
    Head("object-detection", "ForObjectDetection", "AutoModelForObjectDetection", ("logits", "pred_boxes")),
    Head("image-feature-extraction", "Model", "AutoModel", ("last_hidden_state",)),
)


def _inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:  # noqa: ARG001 (an image has none)
    height, width = _EXAMPLE
    channels = getattr(config, "num_channels", 3)
    values = torch.linspace(-1, 1, batch * channels * height * width)
    return {"pixel_values": values.reshape(batch, channels, height, width)}


FAMILY = Family(
    model_types=("detr", "table-transformer", "conditional_detr"),
    heads=HEADS,
    inputs=_inputs,
    ragged={2: "height", 3: "width"},
    max_length=lambda config: None,  # noqa: ARG005 (an image of any size)
)
