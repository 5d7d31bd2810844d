"""The CPU operators' cases, cut to what an interpreter does in time."""

from typing import TypeVar

import numpy as np

from tests.engine.native import mlp, operators

FED = ("pre", "x", "scores", "budget")


AnyCase = TypeVar("AnyCase", mlp.Case, operators.Case)


def cut(case: AnyCase, rows: int) -> AnyCase:
    """The first rows of a case, their leading dimensions made one."""
    width = {name: case.arrays[name].shape[-1:] for name in ("pre", "x", "scores") if name in case.arrays}
    flat = {
        name: array.reshape(-1, *width.get(name, ()))[:rows] if name in FED else array
        for name, array in case.arrays.items()
    }
    return type(case)(flat, case.attributes)


def in_bfloat16(case: mlp.Case | operators.Case, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of these weights are float32; they are rounded in place to what bfloat16 holds."""
    found = tuple(name for name in names if name in case.arrays and case.arrays[name].dtype == np.float32)
    for name in found:
        bits = np.ascontiguousarray(case.arrays[name]).view(np.uint32)
        case.arrays[name] = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    return found
