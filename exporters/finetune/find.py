"""Finding MLP blocks in a torch module, by watching what runs into what."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Found", "find_blocks"]


@dataclass(frozen=True, slots=True)
class Found:
    """An MLP block of a torch module.

    Attributes
    ----------
    name
        Its down projection's name in the module.
    down
        The down projection, whose input are the neurons' values (times the gate's, in a gated block).
    d_ff
        Neurons.
    activation
        The activation's class.
    """

    name: str
    down: torch.nn.Module
    d_ff: int
    activation: str


@dataclass(frozen=True, slots=True)
class _Event:
    kind: str  # "linear", "activation" or "norm"
    module: torch.nn.Module
    taken: torch.Tensor
    given: torch.Tensor


def find_blocks(module: torch.nn.Module, run: Callable[[], object]) -> tuple[list[Found], list[str]]:
    """Return a module's MLP blocks in the order in which they run, and what looked like one and why it was not taken.

    A block is a projection up, an activation on what it gave, and the next projection that takes as many features,
    with no normalisation in between. Whether the block is gated does not matter.

    Parameters
    ----------
    run
        Runs the module on an example.
    """
    events = _watch(module, run)
    names = {id(part): name for name, part in module.named_modules()}
    found: dict[int, Found] = {}
    reasons = []
    for i, event in enumerate(events):
        if event.kind != "activation":
            continue
        d_ff = event.given.shape[-1]
        what = names[id(event.module)]
        up = next((e for e in reversed(events[:i]) if e.kind == "linear"), None)
        if up is None or _storage(up.given) != _storage(event.taken):
            reasons.append(f"{what}: no projection runs straight into it")
            continue
        if d_ff <= up.taken.shape[-1]:
            reasons.append(f"{what}: {up.taken.shape[-1]} features become {d_ff}, not more")
            continue
        down = _down(events[i + 1 :], d_ff)
        if down is None:
            reasons.append(f"{what}: no projection takes its {d_ff} neurons")
            continue
        found.setdefault(id(down), Found(names[id(down)], down, d_ff, type(event.module).__name__))
    return list(found.values()), reasons


def _down(after: list[_Event], d_ff: int) -> torch.nn.Module | None:
    for event in after:
        if event.kind != "linear":
            return None
        if event.taken.shape[-1] == d_ff:
            return event.module
    return None


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _watch(module: torch.nn.Module, run: Callable[[], object]) -> list[_Event]:
    """Run the module; the tensors are kept meanwhile, so that no two share a place in memory."""
    events: list[_Event] = []
    handles = []
    for part in module.modules():
        kind = _kind(part)
        if kind is None:
            continue

        def note(part: torch.nn.Module, taken: Any, given: Any, kind: str = kind) -> None:  # noqa: ANN401
            if taken and isinstance(taken[0], torch.Tensor) and isinstance(given, torch.Tensor):
                events.append(_Event(kind, part, taken[0], given))

        handles.append(part.register_forward_hook(note))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return events


def _kind(part: torch.nn.Module) -> str | None:
    if next(part.children(), None) is not None:
        return None
    name = type(part).__name__
    if isinstance(part, torch.nn.Linear) or name == "Conv1D":  # GPT-2's, a linear layer for all its name
        return "linear"
    if "Norm" in name:
        return "norm"
    homes = ("torch.nn.modules.activation", "transformers.activations")
    return "activation" if type(part).__module__.startswith(homes) and not _attention(part) else None


def _attention(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.MultiheadAttention | torch.nn.Softmax)
