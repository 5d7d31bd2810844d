"""BERT and the encoders that are called as it is."""

import torch

from lazyneuron.exporters.sources.families.family import Config, Family, Head, longest, text_inputs

__all__ = ["FAMILY", "HEADS", "encoder_inputs", "encoder_length"]

_FROM_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""RoBERTa and its kin count positions from the padding token's id on."""

HEADS = (
    Head("feature-extraction", "Model", "AutoModel", ("last_hidden_state",)),
    Head("fill-mask", "ForMaskedLM", "AutoModelForMaskedLM", ("logits",)),
    Head("text-classification", "ForSequenceClassification", "AutoModelForSequenceClassification", ("logits",)),
    Head("token-classification", "ForTokenClassification", "AutoModelForTokenClassification", ("logits",)),
)


def encoder_inputs(config: Config, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Make token ids, a mask, and token types where the model has more than one."""
    inputs = text_inputs(config, batch, length)
    if (getattr(config, "type_vocab_size", None) or 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


def encoder_length(config: Config) -> int | None:
    """Return the most tokens."""
    most = longest(config)
    offset = config.pad_token_id + 1 if config.model_type in _FROM_PADDING else 0
    return None if most is None else most - offset


FAMILY = Family(
    model_types=("bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert"),
    heads=HEADS,
    inputs=encoder_inputs,
    ragged={1: "sequence"},
    max_length=encoder_length,
)
