"""Mixtures of experts, written out: each expert becomes an MLP block of its own, weighted by the router.

transformers runs only the experts that a batch chose, in loops and grouped products whose sizes depend on the data,
which ONNX cannot express. Here every expert is computed for every row and multiplied by its weight for that row,
which is zero where it was not chosen: the same sum.
"""

from collections.abc import Callable
from typing import Any

import torch

from lazyneuron.engine.errors import CheckpointError

__all__ = ["write_out_experts"]


class _Written(torch.nn.ModuleList):
    """Experts as a list, with the calling convention that their model expects.

    Parameters
    ----------
    experts
        One module an expert, rows [n, d_model] to rows.
    weights
        Turns what the router gives into the weight of each expert for each row, [n, experts].
    """

    def __init__(self, experts: list[torch.nn.Module], weights: Callable[..., torch.Tensor]) -> None:
        super().__init__(experts)
        self.weights = weights

    def forward(self, hidden: torch.Tensor, *routing: torch.Tensor) -> torch.Tensor:
        weights = self.weights(*routing).to(hidden.dtype)
        total = torch.zeros_like(hidden)
        for i, expert in enumerate(self):
            total = total + expert(hidden) * weights[:, i : i + 1]
        return total


class _Expert(torch.nn.Module):
    """One expert of a stack: the up projection, with the gate in its first half if there is one, and down."""

    def __init__(self, up: torch.Tensor, down: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.up, self.down = _linear(up), _linear(down)
        self.act = act

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.down(self.act(self.up(hidden)))
        return rows


def write_out_experts(module: torch.nn.Module, what: str) -> int:
    """Replace each mixture in a module; return how many experts there are now.

    Parameters
    ----------
    what
        The checkpoint's name, for messages.

    Raises
    ------
    CheckpointError
        If a mixture is of a kind that cannot be written out.
    """
    count = 0
    for name, part in list(module.named_modules()):
        written = _written(part, f"{what}: {name}")
        if written is not None:
            count += len(written)
            module.set_submodule(name, written)
        if type(part).__name__.startswith("SwitchTransformersTop1Router"):
            # It casts its classifier whenever it runs, to the type that it has already.
            part.classifier.to = lambda *_, of=part.classifier, **__: of
    return count


def _written(part: torch.nn.Module, what: str) -> _Written | None:
    kind = type(part).__name__
    if kind == "SwitchTransformersExperts":
        return _Written(list(part.children()), lambda chosen, probability: chosen[:, 0] * probability)
    if not hasattr(part, "_apply_gate") or not hasattr(part, "down_proj"):
        return None
    experts = _stacked(part, what)
    return _Written(experts, _scattered(len(experts)))


def _stacked(part: Any, what: str) -> list[torch.nn.Module]:  # noqa: ANN401 (any transformers' class of experts)
    odd = [name for name in ("has_bias", "has_post_expert_norm", "is_transposed") if getattr(part, name, False)]
    if odd or not getattr(part, "is_concatenated", True):
        raise CheckpointError(
            f"{what}: its experts ({type(part).__name__}) are of a kind that cannot be written out "
            f"({odd[0] if odd else 'interleaved'})"
        )
    ups = part.gate_up_proj if part.has_gate else part.up_proj
    act = part._apply_gate if part.has_gate else part.act_fn  # noqa: SLF001 (transformers' hook for a gate of its own)
    return [_Expert(up, down, act) for up, down in zip(ups, part.down_proj, strict=True)]


def _scattered(experts: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what spreads the weights of the chosen experts over all of them."""

    def weights(index: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        of_expert = torch.nn.functional.one_hot(index, experts).to(chosen.dtype)
        return (of_expert * chosen.unsqueeze(-1)).sum(-2)

    return weights


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = torch.nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    return made
