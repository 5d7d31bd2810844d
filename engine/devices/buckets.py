"""The few shapes that batches are padded to where a GPU replays captured graphs: pure.

A captured CUDA graph is of one shape. Examples and ragged lengths are rounded up to 1, 2, 3, 4, 6, 8, 12, 16, 24, …
(powers of two and three halves of them), lengths to at least 16: a batch grows by less than a half along each axis
above 2, by a sixth on average, and 14 lengths and 12 counts of examples are all that 2,048 tokens and 64 requests need.
"""

from collections.abc import Mapping

from lazyneuron.engine.artifact import BATCH_AXIS

__all__ = ["MOST_SHAPES", "SHORTEST", "bucketed", "rounded"]

SHORTEST = 16
"""The least that a ragged axis is padded to, where the model takes as much."""
MOST_SHAPES = 64
"""Shapes that one session captures; batches of further shapes run without a graph."""


def rounded(size: int, least: int = 1) -> int:
    """Return the least of 1, 2, 3, 4, 6, 8, 12, … that is neither below `size` nor below `least`."""
    size = max(size, least, 1)
    power = 1 << (size - 1).bit_length()
    return 3 * power // 4 if size > 2 and 3 * power // 4 >= size else power


def bucketed(
    axes: Mapping[str, int], longest: Mapping[str, int], most_tokens: int, *, paddable: bool
) -> dict[str, int] | None:
    """Return the shape that a batch is padded to; None where it would be larger than a batch may be.

    Parameters
    ----------
    axes
        The batch's length of each symbolic axis.
    longest
        The most that the model takes of a ragged axis, where it has a most.
    most_tokens
        Of a batch, padding included (examples × the product of the ragged lengths).
    paddable
        Whether ragged axes may be padded; else only examples are added.
    """
    shape = {}
    for axis, size in axes.items():
        if axis == BATCH_AXIS:
            shape[axis] = rounded(size)
        else:
            shape[axis] = max(size, min(rounded(size, SHORTEST), longest.get(axis, 1 << 62))) if paddable else size
    tokens = 1
    for size in shape.values():
        tokens *= size
    return shape if tokens <= most_tokens else None
