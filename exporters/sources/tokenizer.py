"""A Hugging Face folder's tokenizer, as the `tokenizers` library runs it."""

import json
from pathlib import Path
from typing import Any, Literal

from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources.dense import Tokenizer

__all__ = ["tokenizer_of"]

_SLOW = ("spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
_SENTENCE_CONFIGS = ("sentence_bert_config.json", "sentence_xlnet_config.json", "sentence_roberta_config.json")
_DEFAULT_LENGTH = 512
_PLAIN = {None, "PreTrainedTokenizerFast", "TokenizersBackend"}
"""Classes that add nothing to tokenizer.json. Others do: some lower-case, some put a token before or after the text."""


def tokenizer_of(folder: Path, longest: int | None) -> Tokenizer | None:
    """Return the folder's tokenizer, its settings applied; one of the older kinds is converted; None if there is none.

    Texts are cut where the checkpoint says so: by a sentence-transformers length, or a truncation in tokenizer.json.
    """
    settings = _read(folder / "tokenizer_config.json")
    content = _content(folder, settings)
    if content is None:
        return None
    truncation = _read(folder / "tokenizer.json").get("truncation") or {}
    sentence = next((found for name in _SENTENCE_CONFIGS if (found := _read(folder / name))), {})
    cut = _length(sentence.get("max_seq_length")) or _length(truncation.get("max_length"))  # the former has its way
    limits = [limit for limit in (longest, _length(settings.get("model_max_length")), cut) if limit is not None]
    side: Literal["left", "right"] = "left" if "left" in _sides(settings, truncation) else "right"
    return Tokenizer(
        content,
        min(limits, default=_DEFAULT_LENGTH),
        truncate=None if cut is None else side,
        mask_token=_mask_token(folder, settings),
    )


def _content(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "tokenizer.json"
    there = path.is_file()
    if there and settings.get("tokenizer_class") in _PLAIN:
        return path.read_text(encoding="utf-8")
    if not there and not any((folder / name).is_file() for name in _SLOW):
        return None
    with quiet():
        import transformers

        try:
            slow = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return str(slow.backend_tokenizer.to_str())
        except Exception:  # noqa: BLE001 (a model without a tokenizer still takes token ids)
            return path.read_text(encoding="utf-8") if there else None


def _mask_token(folder: Path, settings: dict[str, Any]) -> str | None:
    for found in (settings, _read(folder / "special_tokens_map.json")):
        token = found.get("mask_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


def _sides(settings: dict[str, Any], truncation: dict[str, Any]) -> set[str]:
    return {str(found).lower() for found in (settings.get("truncation_side"), truncation.get("direction"))}


def _length(value: Any) -> int | None:  # noqa: ANN401 (from JSON)
    # transformers writes 1e30 for "no limit".
    return int(value) if isinstance(value, int | float) and 0 < value < 1_000_000 else None


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; an empty one where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
