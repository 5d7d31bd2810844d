"""What a checkpoint's configuration says of input and answers besides the graph: images, and what the logits mean."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lazyneuron.engine.artifact import Problem
from lazyneuron.exporters.sources.dense import DenseModel
from lazyneuron.exporters.sources.image_processor import image_spec

__all__ = ["with_preprocessing"]

_PROBLEMS: dict[str, Problem] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
_CLASSIFIERS = {"text-classification", "image-classification"}


def with_preprocessing(dense: DenseModel, folder: Path) -> DenseModel:
    """Add what a Hugging Face folder tells of images and answers to a model that was read from it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    image, notes = image_spec(folder, dense.inputs)
    problem = _problem(config, dense) if dense.task in _CLASSIFIERS else None
    tokenizer = dense.tokenizer
    target = any(spec.name.startswith("decoder_") for spec in dense.inputs)
    if tokenizer is not None and tokenizer.decoder_start is None and target:
        tokenizer = replace(tokenizer, decoder_start=_decoder_start(config))
    return replace(dense, image=image, problem=problem, tokenizer=tokenizer, notes=(*dense.notes, *notes))


def _problem(config: dict[str, Any], dense: DenseModel) -> Problem:
    """Return what the logits are; where nothing is said, one class alone is one that may be right or not."""
    said = _PROBLEMS.get(str(config.get("problem_type")))
    return said or ("multi_label" if len(dense.labels or ()) == 1 else "single_label")


def _decoder_start(config: dict[str, Any]) -> int | None:
    for name in ("decoder_start_token_id", "bos_token_id"):
        value = config.get(name)
        if isinstance(value, int):
            return value
    return None
