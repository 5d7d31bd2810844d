"""The certified screen's side of the weights: int8 codes and bounds of every neuron, made once.

The operator library's own (engine/native/dispatch/screen.cc, whose comments prove the bound) written to be read. All
sums here are float64.
"""

import dataclasses
import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.reference.gating import Float32, Float64, Weights

UNIT = 2.0**-24
TEST_SLACK = 2.0**-19
UNDERFLOW = 2.0**-125
SMALLEST_STEP, LARGEST_STEP = 2.0**-60, 2.0**100
LARGEST_CODE = 127.0 - 0.01
STRIDE = 64  # codes of a row are a multiple of so many bytes, zeros after the depth

_UInt64 = NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class ScreenedNeurons:
    """What the screen needs of the weights.

    Attributes
    ----------
    codes : int8 [F, D rounded up to STRIDE]
    constant, spread, size : float32 [F]
        (bias - threshold) / step, |w / step - code| and |code|, each a little enlarged. ``constant`` is infinite where
        a neuron's fate does not depend on the row.
    shift, stretch, draw : float32 [D], optional
        A row is seen as (x - shift) * stretch and rounded to the nearest code, with ``draw`` to floor(z + draw).
    largest_norm, shift_norm, widest, underflow : float
        float32 values: of a neuron; of the shift; Hoeffding's bound on an error, or infinity; what a row's values may
        lack where they underflow.
    """

    codes: NDArray[np.int8]
    constant: Float32
    spread: Float32
    size: Float32
    shift: Float32 | None
    stretch: Float32 | None
    draw: Float32 | None
    largest_norm: float
    shift_norm: float
    widest: float
    underflow: float


def screen_neurons(
    up: Weights,
    up_scale: Float32 | None = None,
    up_bias: Float32 | None = None,
    screen_shift: Float32 | None = None,
    screen_scale: Float32 | None = None,
    *,
    activation: str = "relu",
    threshold: float = 0.0,
    miss_probability: float = 0.0,
) -> ScreenedNeurons:
    """Make the codes and bounds of an up projection's neurons.

    Parameters
    ----------
    up : float32, float16 or int8 [F, D]
    up_scale, up_bias : float32 [F], optional
    screen_shift, screen_scale : float32 [D], optional
    activation : str
        relu or relu2.
    threshold : float
        On the value, not negative.
    miss_probability : float
        0: the deterministic bound.
    """
    neurons, depth = up.shape
    limit = float(np.float32(threshold))
    if activation == "relu2":  # what a value must exceed before it is squared, rounded down
        limit = math.sqrt(limit) * (1 - 2.0**-50)
    scale = np.ones(neurons) if up_scale is None else up_scale.astype(np.float64)
    bias = np.zeros(neurons) if up_bias is None else up_bias.astype(np.float64)
    shift = None if screen_shift is None else screen_shift.astype(np.float32)
    stretch = None if screen_scale is None else _stretch(screen_scale)
    draws = miss_probability > 0
    widest = float(_round_up(math.sqrt(0.5 * math.log(4 / miss_probability)))) if draws else math.inf

    with np.errstate(all="ignore"):
        weights = up.astype(np.float64) * scale[:, None]
        moved = np.zeros((neurons, 1)) if shift is None else weights * shift.astype(np.float64)
        weights = weights if stretch is None else weights / stretch.astype(np.float64)
        norm = np.sqrt(np.square(weights).sum(axis=1)) * (1 + 1e-9)
        largest = np.where(np.isnan(weights).any(axis=1), np.inf, np.abs(weights).max(axis=1))
        step = largest / LARGEST_CODE
        coded = (largest != 0) & (step >= SMALLEST_STEP) & (step <= LARGEST_STEP)
        unit = np.where(coded, step, 1.0)
        codes, spread, size = _codes(np.where(coded[:, None], weights, 0) / unit[:, None], draws=draws)
        relative = norm / unit
        spread = spread * (1 + 1e-9) + 1e-9 * relative
        if draws:
            spread = np.minimum(spread, widest + 1e-9 * relative)
        gamma = (depth + 8) * UNIT
        steepest = 1.0 if stretch is None else max(1.0, float(np.abs(stretch).max()))
        shift_norm = _shift_norm(shift, stretch)
        constant = bias + moved.sum(axis=1) - limit
        constant += 1e-9 * np.abs(moved).sum(axis=1) + 2.0**-45 * (np.abs(bias) + limit)
        constant /= unit
        if shift_norm > 0:  # the row's own part is in its norm
            constant += gamma * relative * shift_norm + depth * UNDERFLOW / unit
        constant = _round_up(constant + TEST_SLACK * np.abs(constant))
        always = np.where((largest == 0) & (bias <= limit), -np.inf, np.inf)
        unscaled = np.where(scale != 0, norm / np.abs(scale), norm)
        norms = np.fmax(norm, unscaled).max()
    return ScreenedNeurons(
        codes=np.pad(codes, ((0, 0), (0, -depth % STRIDE))),
        constant=np.where(coded, constant, always).astype(np.float32),
        spread=np.where(coded, _round_up(spread + gamma * relative + TEST_SLACK * (spread + size)), 0).astype(
            np.float32
        ),
        size=np.where(coded, _round_up(size * (1 + 2 * TEST_SLACK)), 0).astype(np.float32),
        shift=shift,
        stretch=stretch,
        draw=(_hash(2**62, depth) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) if draws else None,
        largest_norm=float(_round_up(norms)),
        shift_norm=shift_norm,
        widest=widest,
        underflow=float(_round_up(math.sqrt(depth) * 2.0**-120 * steepest)),
    )


def _stretch(screen_scale: Float32) -> Float32:
    """Reciprocals; any are sound, so that those that would be no normal numbers are moved to where they are."""
    size = np.clip(np.abs(screen_scale), np.float32(2.0**-100), np.float32(2.0**100))
    return cast("Float32", (np.float32(1) / np.copysign(size, screen_scale)).astype(np.float32))


def _shift_norm(shift: Float32 | None, stretch: Float32 | None) -> float:
    if shift is None:
        return 0.0
    moved = shift.astype(np.float64) * (1.0 if stretch is None else stretch.astype(np.float64))
    return float(_round_up(math.sqrt(float(np.square(moved).sum())) * (1 + 1e-9)))


def _codes(exact: Float64, *, draws: bool) -> tuple[NDArray[np.int8], Float64, Float64]:
    """Codes of weights in units of their step, the norms of what they lack, and their own."""
    if draws:
        drawn = (_hash(0, exact.size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        code = np.floor(exact + drawn.reshape(exact.shape))
    else:
        code = np.rint(exact)
    spread = np.sqrt(np.square(exact - code).sum(axis=1))
    size = np.sqrt(np.square(code).sum(axis=1)) * (1 + 1e-9)
    return code.astype(np.int8), spread, size


def _hash(first: int, count: int) -> _UInt64:
    """Make a fixed sequence (splitmix64): draws depend on nothing but their position."""
    position = np.arange(count, dtype=np.uint64) + np.uint64(first) + np.uint64(1)
    z = position * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast("_UInt64", z ^ (z >> np.uint64(31)))


def _round_up(value: Float64 | float) -> Float32:
    """float32 values that are not below; positive ones stay clear of the subnormals."""
    exact = np.asarray(value, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        nearest = exact.astype(np.float32)
    up = np.where(nearest < exact, np.nextafter(nearest, np.float32(np.inf)), nearest)
    tiny = np.finfo(np.float32).tiny
    return cast("Float32", np.where((up > 0) & (up < tiny), tiny, up).astype(np.float32))
