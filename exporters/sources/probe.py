"""Which axes of a module's inputs may have other lengths, and which of them only together: found by trying."""

from collections.abc import Sequence

import torch

from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources.axes import Group

__all__ = ["free_axes"]

_Axis = tuple[str, int]


def free_axes(module: torch.nn.Module, examples: dict[str, torch.Tensor]) -> list[Group]:
    """Return groups of axes whose lengths may change together; all others but the batch axis are fixed.

    An axis, or some of equal length together, may change if the module still runs when they are one shorter. torch
    alone does not tell: it keeps two names for lengths that must agree wherever it could broadcast, and takes a
    width that a weight fixes for free.
    """
    by_length: dict[int, list[_Axis]] = {}
    for name, tensor in examples.items():
        for axis, length in enumerate(tensor.shape):
            if axis and length > 1:
                by_length.setdefault(length, []).append((name, axis))
    return [group for axes in by_length.values() for group in _groups(module, examples, axes)]


def _groups(module: torch.nn.Module, examples: dict[str, torch.Tensor], axes: list[_Axis]) -> list[Group]:
    alone = [axis for axis in axes if _runs_shorter(module, examples, [axis])]
    groups: list[list[_Axis]] = [[axis] for axis in alone]
    rest = [axis for axis in axes if axis not in alone]
    while rest:
        first, *rest = rest
        sets = ([first, *rest], *([first, other] for other in rest), *([first, *group] for group in groups))
        together = next((s for s in sets if len(s) > 1 and _runs_shorter(module, examples, s)), None)
        if together is not None:
            groups = [[axis for axis in group if axis not in together] for group in groups] + [together]
            rest = [axis for axis in rest if axis not in together]
    return [group for group in groups if group]


def _runs_shorter(module: torch.nn.Module, examples: dict[str, torch.Tensor], axes: Sequence[_Axis]) -> bool:
    shorter = dict(examples)
    for name, axis in axes:
        shorter[name] = shorter[name].narrow(axis, 0, shorter[name].shape[axis] - 1)
    try:
        with torch.no_grad(), quiet():
            module(**shorter)
    except Exception:  # noqa: BLE001 (that it fails is the answer)
        return False
    return True
