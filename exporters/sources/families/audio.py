"""wav2vec 2.0 and the encoders that take raw sound as it does."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head

__all__ = ["FAMILY", "HEADS", "sound_inputs"]

_SAMPLES = 16_000
"""A second."""

HEADS = (
    Head("feature-extraction", "Model", "AutoModel", ("last_hidden_state",)),
    Head("automatic-speech-recognition", "ForCTC", "AutoModelForCTC", ("logits",)),
    Head("audio-classification", "ForSequenceClassification", "AutoModelForAudioClassification", ("logits",)),
)


def sound_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:  # noqa: ARG001
    """Make a second of sound, float32 [batch, samples]."""
    return {"input_values": torch.sin(torch.arange(batch * _SAMPLES) * 0.01).reshape(batch, _SAMPLES)}


FAMILY = Family(
    model_types=("wav2vec2", "hubert", "wavlm"),
    heads=HEADS,
    inputs=sound_inputs,
    ragged={1: "samples"},
    max_length=lambda config: None,  # noqa: ARG005 (its positions are a convolution's)
)
