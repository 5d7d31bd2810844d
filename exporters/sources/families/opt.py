"""OPT, a decoder."""

from lazyneuron.exporters.sources.families.family import Family, Head, text_inputs

__all__ = ["FAMILY"]

FAMILY = Family(
    model_types=("opt",),
    heads=(
        Head("text-generation", "ForCausalLM", "AutoModelForCausalLM", "logits"),
        Head("feature-extraction", "Model", "AutoModel", "last_hidden_state"),
    ),
    inputs=text_inputs,
    ragged={1: "sequence"},
    max_length=lambda config: int(config.max_position_embeddings),
)
