"""Whisper: log-mel spectrograms of a fixed length in, the target's tokens beside them."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head, target_inputs

__all__ = ["FAMILY"]


def _inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    # The encoder's convolutions halve the frames, and its position table has no other length.
    shape = (batch, config.num_mel_bins, 2 * config.max_source_positions)
    features = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2]).reshape(shape)
    return {"input_features": features, **target_inputs(config, batch, length)}


FAMILY = Family(
    model_types=("whisper",),
    heads=(
        Head("seq2seq", "ForConditionalGeneration", "AutoModelForSpeechSeq2Seq", ("logits",)),
        Head("feature-extraction", "Model", "AutoModel", ("last_hidden_state",), encoder=True),
    ),
    inputs=_inputs,
    ragged={},
    max_length=lambda config: None,  # noqa: ARG005 (every recording is brought to one length)
    target={1: "target"},
    max_target=lambda config: int(config.max_target_positions),
)
