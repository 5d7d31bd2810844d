"""Families of the model types that no file here names, told by transformers' own tables of what a type is for."""

from dataclasses import replace

from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources.families import audio, bert, decoders, detr, seq2seq, vit
from lazyneuron.exporters.sources.families.family import Family

__all__ = ["mapped_family"]

_TABLES = (
    ("SEQ_TO_SEQ_CAUSAL_LM", seq2seq.FAMILY),
    ("MASKED_LM", bert.FAMILY),
    ("CAUSAL_LM", decoders.FAMILY),
    ("OBJECT_DETECTION", detr.FAMILY),
    ("IMAGE_CLASSIFICATION", vit.FAMILY),
    ("CTC", audio.FAMILY),
)
"""A type is of the first table that has it."""
_BY_INPUT = {"input_ids": bert.FAMILY, "pixel_values": vit.FAMILY, "input_values": audio.FAMILY}
"""A type that has a base model alone is called by what that takes."""


def mapped_family(model_type: str) -> Family | None:
    """Return the family of a `model_type` that transformers knows; None if it is none that can be exported."""
    with quiet():
        import transformers
        from transformers.models.auto import modeling_auto
    for table, family in _TABLES:
        if model_type in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}):
            return replace(family, model_types=(model_type,))
    base = getattr(transformers, str(modeling_auto.MODEL_MAPPING_NAMES.get(model_type)), None)
    family_of = _BY_INPUT.get(getattr(base, "main_input_name", ""))
    return None if family_of is None else replace(family_of, model_types=(model_type,))
