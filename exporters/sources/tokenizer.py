"""A Hugging Face folder's tokenizer, as the `tokenizers` library runs it."""

import json
from pathlib import Path

from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources.dense import Tokenizer

__all__ = ["tokenizer_of"]

_SLOW = ("spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
_DEFAULT_LENGTH = 512


def tokenizer_of(folder: Path, longest: int | None) -> Tokenizer | None:
    """Return the folder's tokenizer; one of the older kinds is converted; None if there is none."""
    content = _content(folder)
    if content is None:
        return None
    limits = [limit for limit in (longest, _configured_length(folder)) if limit is not None]
    return Tokenizer(content, min(limits, default=_DEFAULT_LENGTH))


def _content(folder: Path) -> str | None:
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if not any((folder / name).is_file() for name in _SLOW):
        return None
    with quiet():
        import transformers

        try:
            slow = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return str(slow.backend_tokenizer.to_str())
        except Exception:  # noqa: BLE001 (a model without a tokenizer still takes token ids)
            return None


def _configured_length(folder: Path) -> int | None:
    try:
        value = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("model_max_length")
    except (OSError, ValueError, AttributeError):
        return None
    # transformers writes 1e30 for "no limit".
    return int(value) if isinstance(value, int | float) and 0 < value < 1_000_000 else None
