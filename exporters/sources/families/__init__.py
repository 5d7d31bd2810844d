"""The model families that can be exported from a Hugging Face directory: one file each, listed here."""

from lazyneuron.exporters.sources.families import bert, opt, t5, vit
from lazyneuron.exporters.sources.families.family import Family, Head

__all__ = ["FAMILIES", "Family", "Head", "family_of"]

FAMILIES = (bert.FAMILY, opt.FAMILY, t5.FAMILY, vit.FAMILY)


def family_of(model_type: str) -> Family | None:
    """Return the family that takes a configuration's `model_type`."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)
