"""BERT and the encoders that are called as it is."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head, text_inputs

__all__ = ["FAMILY"]

_WITHOUT_SEGMENTS = {"roberta", "xlm-roberta", "camembert", "distilbert"}


def _inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    inputs = text_inputs(config, batch, length)
    if config.model_type not in _WITHOUT_SEGMENTS:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


def _max_length(config: Config) -> int | None:
    # RoBERTa counts positions from the padding token's id on.
    offset = config.pad_token_id + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    return int(config.max_position_embeddings) - offset


FAMILY = Family(
    model_types=("bert", "electra", *sorted(_WITHOUT_SEGMENTS)),
    heads=(
        Head("feature-extraction", "Model", "AutoModel", "last_hidden_state"),
        Head("fill-mask", "ForMaskedLM", "AutoModelForMaskedLM", "logits"),
        Head("text-classification", "ForSequenceClassification", "AutoModelForSequenceClassification", "logits"),
        Head("token-classification", "ForTokenClassification", "AutoModelForTokenClassification", "logits"),
    ),
    inputs=_inputs,
    ragged={1: "sequence"},
    max_length=_max_length,
)
