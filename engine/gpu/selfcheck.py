"""Whether the operators compute on a device what they should, and how fast: `lazyneuron selfcheck`.

On a GPU each case runs in a session of ONNX Runtime's CUDA provider and in one on the CPU, and the two are compared; on
the CPU the kernels of every instruction set that the machine has are compared with the operators in NumPy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.gpu.cases import Case, Outputs, model_sized_cases, short_cases, small_cases
from lazyneuron.engine.gpu.places import DOWN_WAYS, open_on
from lazyneuron.engine.machine import instruction_sets

__all__ = ["TOLERANCE", "Check", "Disagreement", "check", "compare", "full", "short"]

TOLERANCE = 1e-4
"""The largest error that agrees, as a share of y's largest entry: all sums are in float32, whatever the weights."""
_CANDIDATES = 0.02
"""By what share of the neurons two right screens may differ in their candidates, since bounds are rounded, too."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where a kernel gives something else than it should.

    Attributes
    ----------
    case
        The operator, its mode and the type of its weights.
    data
        What it ran on.
    where
        The device or the instruction set.
    figures
        What was got and what was expected.
    """

    case: str
    data: str
    where: str
    figures: str

    def __str__(self) -> str:
        return f"{self.case} ({self.data}) on {self.where}: {self.figures}"


@dataclass(frozen=True, slots=True)
class Check:
    """One case on one device.

    Attributes
    ----------
    error
        The largest difference of y, as a share of its largest entry; NaN where the case did not run.
    disagreements
        None: it agrees.
    """

    case: Case
    where: str
    error: float
    disagreements: tuple[Disagreement, ...]


def short(place: Device) -> list[Disagreement]:
    """Check every mode with every type of weights on small data, in less than a second, as a server does first.

    Returns
    -------
    What disagrees, in the order of the cases; empty: the device may be used.
    """
    return [found for case in short_cases() for done in check(case, place) for found in done.disagreements]


def full(place: Device, *, small: bool = False, told: Callable[[Check], None] | None = None) -> list[Check]:
    """Check every case, on small data and (unless `small`) on model-sized, and tell of each when it is done."""
    checks = []
    for case in small_cases() if small else _all_cases():
        for done in check(case, place, DOWN_WAYS):
            checks.append(done)
            if told is not None:
                told(done)
    return checks


def _all_cases() -> Iterator[Case]:
    yield from small_cases()
    yield from model_sized_cases()


def check(case: Case, place: Device, ways: Sequence[str | None] = (None,)) -> Iterable[Check]:
    """Run a case on a device and compare; on the CPU with each instruction set.

    Parameters
    ----------
    ways
        How a GPU is to project down, of `DOWN_WAYS`; None: as the process does.
    """
    if place != CPU:
        expected = _on_cpu(case)
        for way in ways:
            where = str(place) if way is None else f"{place}, by {way}"
            yield _checked(case, where, partial(_run, case, place, down=way), expected)
    elif case.weights != "bfloat16":  # which the CPU's kernels do not take
        expected = case.reference()
        for name in instruction_sets():
            run = partial(_run, case, CPU, instruction_set=name)
            yield _checked(case, name, run, expected)


def compare(case: Case, where: str, got: dict[str, NDArray[Any]], expected: Outputs) -> Check:
    """Hold a node's outputs, by their names, against the right ones."""
    y, right = got["y"].astype(np.float64), expected.y.astype(np.float64)
    found = []
    finite = np.isfinite(right)
    largest = float(np.abs(right[finite]).max(initial=0.0)) or 1.0
    error = float("nan")
    if y.shape != right.shape:
        found.append(f"y has the shape {y.shape}, expected {right.shape}")
    else:
        unlike = (np.isfinite(y) != finite) | (np.isnan(y) != np.isnan(right))
        error = float(np.abs(np.where(finite & ~unlike, y - right, 0.0)).max(initial=0.0)) / largest
        if unlike.any():
            found.append(f"y is {_first(y, unlike)}, expected {_first(right, unlike)} ({int(unlike.sum())} entries)")
        if error > TOLERANCE:
            found.append(f"y is off by {error:.1e} of its largest entry, tolerance {TOLERANCE:.0e}")
    active = got["active"]
    if active.shape != expected.active.shape or (active != expected.active).any():
        found.append(f"active {_counts(active, expected.active, expected.active)}")
    if expected.fewest is not None and expected.most is not None:
        candidates = got["candidates"]
        outside = candidates.shape != expected.fewest.shape
        if outside or ((candidates < expected.fewest) | (candidates > expected.most)).any():
            found.append(f"candidates {_counts(candidates, expected.fewest, expected.most)}")
    return Check(case, where, error, tuple(Disagreement(case.name, case.data, where, words) for words in found))


def _checked(case: Case, where: str, run: Callable[[], dict[str, NDArray[Any]]], expected: Outputs) -> Check:
    """Compare; a case that a device refuses, or fails on, disagrees in the device's words."""
    try:
        got = run()
    except ArtifactError as error:
        return Check(case, where, float("nan"), (Disagreement(case.name, case.data, where, str(error)),))
    return compare(case, where, got, expected)


def _run(
    case: Case, place: Device, *, instruction_set: str | None = None, down: str | None = None
) -> dict[str, NDArray[Any]]:
    session = open_on(place, case.graph(bfloat16=place != CPU), instruction_set=instruction_set, down=down)
    return session.run(case.outputs, case.feeds)


def _on_cpu(case: Case) -> Outputs:
    """Return what the CPU's kernels give."""
    got = _run(case, CPU)
    y, active = got["y"].astype(np.float32), got["active"].astype(np.int32)
    if "candidates" not in got:
        return Outputs(y, active)
    candidates = got["candidates"].astype(np.int32)
    if case.mode != "certified":
        return Outputs(y, active, candidates, candidates)
    slack = max(round(_CANDIDATES * case.neurons), 1)
    ran = candidates > 0  # a row without a budget has none
    fewest = np.where(ran, np.maximum(candidates - slack, active), 0).astype(np.int32)
    most = np.where(ran, np.minimum(candidates + slack, case.neurons), 0).astype(np.int32)
    return Outputs(y, active, fewest, most)


def _first(values: NDArray[np.float64], where: NDArray[np.bool_]) -> str:
    row, column = (int(i) for i in np.argwhere(where)[0])
    return f"{values[row, column]:g} at [{row}, {column}]"


def _counts(got: NDArray[Any], fewest: NDArray[np.int32], most: NDArray[np.int32]) -> str:
    if got.shape != fewest.shape:
        return f"has the shape {got.shape}, expected {fewest.shape}"
    counts = got.astype(np.int64)
    row = int(np.flatnonzero((counts < fewest) | (counts > most))[0])
    right = str(fewest[row]) if fewest[row] == most[row] else f"{fewest[row]} to {most[row]}"
    return f"is {counts[row]} in row {row}, expected {right}"
