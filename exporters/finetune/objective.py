"""How far the sparse model is from the dense one: the loss, and the figures that are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

__all__ = ["Distance", "answers", "distance", "own_loss"]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one batch's answers are from the dense model's.

    Attributes
    ----------
    loss
        The mean over positions.
    agree
        Positions with the same largest logit; for vectors, the sum of cosines.
    positions
        How many were compared.
    """

    loss: torch.Tensor
    agree: float
    positions: int


def answers(module: Any, batch: Mapping[str, torch.Tensor], fields: tuple[str, ...]) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """Run a module; return the fields of its answer that an export would have as outputs."""
    answer = module(**batch)
    return {field: getattr(answer, field) for field in fields}


def distance(
    student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], mask: torch.Tensor | None
) -> Distance:
    """Compare answers: logits by Kullback and Leibler's divergence, vectors by squared error and cosine.

    Parameters
    ----------
    student, teacher
        By field: logits (named so) or vectors, [batch, …, d].
    mask
        [batch, tokens], 0 where an answer for each token does not count; None: all count.
    """
    losses = []
    agree, positions = 0.0, 0
    for name, wanted in teacher.items():
        real, given = _real(wanted, mask), _real(student[name], mask)
        if "logits" in name:
            target = functional.log_softmax(real, -1)
            made = functional.log_softmax(given, -1)
            losses.append((target.exp() * (target - made)).sum(-1).mean())
            same = (real.argmax(-1) == given.argmax(-1)).sum()
        else:
            cosine = functional.cosine_similarity(real, given, dim=-1)
            scale = real.square().mean().clamp(min=1e-12)
            losses.append((given - real).square().mean() / scale + (1 - cosine).mean())
            same = cosine.detach().sum()
        agree, positions = agree + float(same), positions + len(real)
    return Distance(torch.stack(losses).sum(), agree, positions)


def own_loss(logits: torch.Tensor, batch: Mapping[str, torch.Tensor], task: str) -> torch.Tensor:
    """Return the task's own loss, in nats a token: of the next token, or of the target's in an encoder–decoder."""
    if task == "seq2seq":
        return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    wanted = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=-100)


def _real(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the rows that count, [rows, d]."""
    if mask is not None and values.shape[:-1] == mask.shape:
        return values[mask != 0]
    return values.reshape(-1, values.shape[-1])
