"""T5's encoder; of a whole T5 the encoder is taken."""

from lazyneuron.exporters.sources.families.family import Family, Head, text_inputs

__all__ = ["FAMILY"]

FAMILY = Family(
    model_types=("t5",),
    heads=(Head("feature-extraction", "EncoderModel", "T5EncoderModel", "last_hidden_state"),),
    inputs=text_inputs,
    ragged={1: "sequence"},
    max_length=lambda config: None,  # noqa: ARG005 (its positions are relative)
)
