"""Putting top-k into a torch module's blocks, and measuring what its neurons do."""

from collections.abc import Sequence
from typing import Any

import torch

from lazyneuron.exporters.finetune.find import Found
from lazyneuron.exporters.finetune.topk import keep_largest

__all__ = ["Gates"]


class Gates:
    """Stands before the down projection of each block: cuts values off, and counts what is left.

    Attributes
    ----------
    penalise
        Whether the spread of values is summed up.

    Parameters
    ----------
    blocks
        The blocks of one module.
    top_k
        The most neurons of a row; None: all.
    """

    def __init__(self, blocks: Sequence[Found], top_k: int | None) -> None:
        self.penalise = False
        self._top_k = top_k
        self._spreads: list[torch.Tensor] = []
        self._mask: torch.Tensor | None = None
        self._counted = [0, 0]
        for block in blocks:
            block.down.register_forward_pre_hook(self._gate)

    def begin(self, mask: torch.Tensor | None) -> None:
        """Begin a forward pass; rows where the mask [batch, tokens] is 0 are not counted."""
        self._spreads.clear()
        self._mask = mask

    def spread(self) -> torch.Tensor:
        """Return the mean of `‖v‖₁ / (‖v‖₂ √d_ff)`, from 1/√d_ff (one neuron) to 1 (all alike), since `begin`."""
        return torch.stack(self._spreads).mean()

    def reset_counts(self) -> None:
        """Forget which neurons were active."""
        self._counted = [0, 0]

    def density(self) -> float:
        """Return the share of neurons that were not zero, since `reset_counts`."""
        active, all_of_them = self._counted
        return active / max(all_of_them, 1)

    def _gate(self, _: torch.nn.Module, taken: tuple[Any, ...]) -> tuple[Any, ...]:
        values, *rest = taken
        if self._top_k is not None:
            values = keep_largest(values, self._top_k)
        if self.penalise:
            rows = self._real(values)
            spread = rows.abs().sum(-1) / (rows.square().sum(-1) + 1e-12).sqrt() / values.shape[-1] ** 0.5
            self._spreads.append(spread.mean())
        elif not torch.is_grad_enabled():
            rows = self._real(values)
            self._counted[0] += int(torch.count_nonzero(rows))
            self._counted[1] += rows.numel()
        return (values, *rest)

    def _real(self, values: torch.Tensor) -> torch.Tensor:
        if self._mask is not None and values.shape[:-1] == self._mask.shape:
            return values[self._mask != 0]
        return values
