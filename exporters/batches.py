"""Joining calibration examples to batches."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lazyneuron.engine.artifact import BATCH_AXIS, InputSpec
from lazyneuron.exporters.examples import Array, Example

__all__ = ["Feed", "batch_size", "batches"]

Feed = dict[str, Array]


def batch_size(specs: Sequence[InputSpec], wanted: int) -> int:
    """Return how many examples can be run at once: a model may be fixed to a number of them."""
    sizes = {spec.shape[0] if spec.shape else 1 for spec in specs}
    if sizes == {BATCH_AXIS}:
        return wanted
    size = next(iter(sizes))
    return size if len(sizes) == 1 and isinstance(size, int) else 1


def batches(examples: Iterable[Example], specs: Sequence[InputSpec], size: int) -> Iterator[Feed]:
    """Join consecutive examples, padded to the longest where the model can tell padding, of equal shapes elsewhere.

    Where the model is fixed to a number of examples an incomplete batch is left out, since filling it up would count
    an example twice; only a lone one is filled up.
    """
    paddable = all(spec.pad is not None for spec in specs)
    fixed = any(not spec.shape or spec.shape[0] != BATCH_AXIS for spec in specs)
    waiting: list[Example] = []
    given = False
    for example in examples:
        if waiting and (len(waiting) == size or not (paddable or _same_shapes(waiting[-1], example))):
            yield _join(waiting, specs)
            waiting, given = [], True
        waiting.append(example)
    if fixed and len(waiting) < size and not given:
        waiting += [waiting[-1]] * (size - len(waiting))
    if waiting and not (fixed and len(waiting) < size):
        yield _join(waiting, specs)


def _same_shapes(a: Example, b: Example) -> bool:
    return all(a[name].shape == b[name].shape for name in a)


def _join(examples: Sequence[Example], specs: Sequence[InputSpec]) -> Feed:
    return {spec.name: _join_input(spec, [e[spec.name] for e in examples]) for spec in specs}


def _join_input(spec: InputSpec, arrays: Sequence[Array]) -> Array:
    shape = np.max([array.shape for array in arrays], axis=0).astype(int).tolist() if arrays[0].ndim else []
    joined = np.full((len(arrays), *shape), 0 if spec.role == "mask" else spec.pad or 0, spec.dtype)
    for i, array in enumerate(arrays):
        place: tuple[int | slice, ...] = (i, *(slice(n) for n in array.shape))
        joined[place] = array
    return joined
