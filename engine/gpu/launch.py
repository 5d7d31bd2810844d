"""Launch the Triton kernels from Python, by the table of configurations, on torch tensors.

With ``TRITON_INTERPRET=1``, set before triton is first imported, they run on the CPU.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from lazyneuron.engine.gpu.configurations import CONFIGURATIONS, Configuration

Argument = torch.Tensor | int | float | None
_DTYPES = {
    "*fp32": torch.float32,
    "*i32": torch.int32,
    "*i8": torch.int8,
    "*fp16": torch.float16,
    "*bf16": torch.bfloat16,
}


def launch(name: str, arguments: Mapping[str, Argument], splits: int = 1) -> None:
    """Launch a kernel.

    Parameters
    ----------
    name : str
        A key of ``CONFIGURATIONS``.
    arguments : mapping
        Tensors and numbers by the parameters' names, ``rows`` and the other sizes among them. An optional tensor may
        be None or missing; its bit of ``flags`` must then be 0.
    splits : int
        The grid's size where it is ``splits``.

    Raises
    ------
    TypeError
        A tensor is not of the parameter's type, is not contiguous, or lies elsewhere than the others.
    """
    one = CONFIGURATIONS[name]
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    absent = {type_: torch.empty(1, dtype=dtype, device=tensors[0].device) for type_, dtype in _DTYPES.items()}
    values = []
    for parameter, type_ in one.signature().items():
        value = arguments.get(parameter)
        if type_ in _DTYPES:
            value = absent[type_] if value is None else value
            _check(name, parameter, value, _DTYPES[type_], tensors[0].device)
        values.append(value)
    options = {"num_warps": one.warps, "num_stages": one.stages, "enable_fp_fusion": False}
    _function(one)[grid(one, arguments, splits)](*values, **one.constants, **options)


def grid(one: Configuration, arguments: Mapping[str, Argument], splits: int) -> tuple[int, ...]:
    """How many programs along each axis, from the words of the table."""
    sizes = {"1": 1, "rows": arguments.get("rows"), "splits": splits}
    for word in one.grid:
        if word.endswith("_tiles"):
            what = word.removesuffix("_tiles") + "s"
            total = arguments[what]
            assert isinstance(total, int)
            sizes[word] = -(-total // one.tile(what.upper()))
    return tuple(int(sizes[word] or 0) for word in one.grid)


def _check(name: str, parameter: str, value: Argument, dtype: torch.dtype, device: torch.device) -> None:
    if (
        not isinstance(value, torch.Tensor)
        or value.dtype != dtype
        or value.device != device
        or not value.is_contiguous()
    ):
        got = f"{value.dtype} on {value.device}" if isinstance(value, torch.Tensor) else repr(value)
        raise TypeError(f"{parameter} of kernel {name} is {got}, expected contiguous {dtype} on {device}")


def _function(one: Configuration) -> Any:  # noqa: ANN401 - triton has no types
    return getattr(importlib.import_module(f"lazyneuron.engine.gpu.kernels.{one.module}"), one.kernel)
