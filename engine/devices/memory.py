"""How large a batch a GPU's memory holds: measured at load, by batches that grow until the memory is used. Pure.

ONNX Runtime's arena keeps what it once took, so what is used after a batch is the most that any batch so far wanted.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lazyneuron.engine.errors import ArtifactError

__all__ = ["Bound", "Point", "RanOutError", "measure"]

_FIRST = 64  # tokens of the first probing batch
_CAUTION = 2.0  # attention grows with the square of a length: the next tokens may take twice what the last ones did


class RanOutError(Exception):
    """A probing batch ran out of the device's memory; for `measure` alone."""


@dataclass(frozen=True, slots=True)
class Point:
    """One probing batch.

    Attributes
    ----------
    tokens
        Its size.
    used
        Bytes of the device that the session holds after it.
    """

    tokens: int
    used: int


@dataclass(frozen=True, slots=True)
class Bound:
    """What was measured.

    Attributes
    ----------
    max_tokens
        The largest batch that is sure to fit, or the most that was asked for.
    bytes_per_token
        The most that one more token took, between any two of the batches.
    model_bytes
        What the session held before the first of them: weights, and CUDA's own.
    points
        The batches that ran.
    """

    max_tokens: int
    bytes_per_token: float
    model_bytes: int
    points: tuple[Point, ...]


def measure(run: Callable[[int], None], used: Callable[[], int], room: int, most: int) -> Bound:
    """Run batches of 64, 128, 256, … tokens, up to `most`, as long as twice the last one's growth still fits.

    Parameters
    ----------
    run
        Runs a batch of about so many tokens, in the shape that takes the most memory.
    used
        Gives the bytes of the device that the session holds now.
    room
        The bytes that it may hold.
    most
        Tokens that no batch exceeds anyway.

    Raises
    ------
    ArtifactError
        If not even the first batch fits.
    """
    before = Point(0, used())
    points: list[Point] = []
    slope = 0.0
    tokens = min(_FIRST, most)
    while True:
        last = points[-1] if points else before
        try:
            run(tokens)
        except RanOutError as error:
            if not points:
                raise ArtifactError(
                    f"a batch of {tokens} tokens does not fit into the GPU's memory beside the model's "
                    f"{before.used:,} bytes; it may take {room:,} in all ({error})"
                ) from error
            return Bound(last.tokens, slope, before.used, tuple(points))
        points.append(Point(tokens, used()))
        slope = max(slope, (points[-1].used - last.used) / (tokens - last.tokens))
        if tokens == most:
            return Bound(most, slope, before.used, tuple(points))
        left, dear = room - points[-1].used, _CAUTION * slope
        following = min(2 * tokens, most)
        if left < 0 or dear * (following - tokens) > left:
            more = int(left / dear) if left > 0 else 0
            return Bound(tokens + more, slope, before.used, tuple(points))
        tokens = following
