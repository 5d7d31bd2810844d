"""The model families that can be exported from a Hugging Face directory: one file each, listed here."""

from lazyneuron.exporters.sources.families import audio, bert, clip, decoders, detr, seq2seq, vit, whisper
from lazyneuron.exporters.sources.families.family import Family, Head
from lazyneuron.exporters.sources.families.mapped import mapped_family

__all__ = ["FAMILIES", "Family", "Head", "family_of"]

FAMILIES = (
    audio.FAMILY,
    bert.FAMILY,
    clip.FAMILY,
    decoders.FAMILY,
    detr.FAMILY,
    seq2seq.FAMILY,
    vit.FAMILY,
    whisper.FAMILY,
)


def family_of(model_type: str) -> Family | None:
    """Return the family that takes a configuration's `model_type`, by name or by transformers' tables."""
    named = next((family for family in FAMILIES if model_type in family.model_types), None)
    return named or mapped_family(model_type)
