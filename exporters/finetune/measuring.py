"""Measuring a model on held-out examples, beside the dense one."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lazyneuron.exporters.finetune.data import Data, Example, collate
from lazyneuron.exporters.finetune.models import Models
from lazyneuron.exporters.finetune.objective import answers, distance, own_loss

__all__ = ["Figures", "measure", "prepared"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model does on held-out examples.

    Attributes
    ----------
    distance
        From the dense model: nats a position for logits, relative squared error and cosine for vectors.
    agreement
        The share of positions with the dense model's largest logit; for vectors, the mean cosine.
    perplexity
        Of language models; None for others.
    density
        The share of neurons that are not zero, over the blocks.
    """

    distance: float
    agreement: float
    perplexity: float | None
    density: float

    def document(self) -> dict[str, Any]:
        """Return the figures as they are written to JSON."""
        return asdict(self)


def measure(module: Any, models: Models, data: Data, examples: Sequence[Example], batch: int, seed: int) -> Figures:  # noqa: ANN401
    """Measure the student, or the dense model where `module` is that, on these examples."""
    task = models.opened.head.task
    total, agree, positions, nats, tokens = 0.0, 0.0, 0, 0.0, 0
    gates = models.gates if module is models.student else models.dense_gates
    gates.reset_counts()
    with torch.no_grad():
        for start in range(0, len(examples), batch):
            inputs, mask = prepared(examples[start : start + batch], models, data, seed + start)
            gates.begin(mask)
            made = answers(module, inputs, models.fields)
            wanted = made if module is models.teacher else answers(models.teacher, inputs, models.fields)
            apart = distance(made, wanted, mask)
            total += float(apart.loss) * apart.positions
            agree, positions = agree + apart.agree, positions + apart.positions
            if task in {"text-generation", "seq2seq"}:
                real = (inputs["labels"] != -100) if task == "seq2seq" else inputs["attention_mask"][:, 1:] != 0
                nats += float(own_loss(made["logits"], inputs, task)) * int(real.sum())
                tokens += int(real.sum())
    perplexity = math.exp(min(nats / tokens, 700.0)) if tokens else None
    return Figures(total / positions, agree / positions, perplexity, gates.density())


def prepared(
    examples: Sequence[Example], models: Models, data: Data, seed: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """Return a batch and the mask of its answers; for models that fill words in, 15 % of the words are masked."""
    batch = collate(examples, data.pad_token)
    task = models.opened.head.task
    if task == "seq2seq":
        return batch, (batch["labels"] != -100).long()
    mask = batch.get("attention_mask")
    if task == "fill-mask" and data.mask_token is not None and "input_ids" in batch:
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.rand(batch["input_ids"].shape, generator=generator) < 0.15
        if mask is not None:
            hidden &= mask != 0
        batch["input_ids"] = batch["input_ids"].masked_fill(hidden, data.mask_token)
    return batch, mask
