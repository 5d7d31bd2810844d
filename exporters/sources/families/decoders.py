"""Decoders: OPT, GPT-2, Llama, Gemma and those that are called as they are."""

from lazyneuron.exporters.sources.families.family import Family, Head, longest, text_inputs

__all__ = ["FAMILY", "HEADS"]

HEADS = (
    Head("text-generation", "ForCausalLM", "AutoModelForCausalLM", ("logits",)),
    Head("text-generation", "LMHeadModel", "AutoModelForCausalLM", ("logits",)),
    Head("feature-extraction", "Model", "AutoModel", ("last_hidden_state",)),
    Head("text-classification", "ForSequenceClassification", "AutoModelForSequenceClassification", ("logits",)),
    Head("token-classification", "ForTokenClassification", "AutoModelForTokenClassification", ("logits",)),
)

FAMILY = Family(
    model_types=("opt", "gpt2", "llama", "gemma"),
    heads=HEADS,
    inputs=text_inputs,
    ragged={1: "sequence"},
    max_length=longest,
)
