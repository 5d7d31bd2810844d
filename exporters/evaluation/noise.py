"""Noise on images.

The amounts are ImageNet-C's severities 1, 3 and 5 (Hendrycks & Dietterich, arXiv 1903.12261).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOISES", "Noise", "gaussian", "impulse", "shot"]

_Floats = NDArray[np.float64]
Noise = Callable[[_Floats, float, np.random.Generator], _Floats]
"""Takes pixels of 0 to 1 in any shape, the amount and a generator; gives pixels of 0 to 1."""


def gaussian(pixels: _Floats, amount: float, rng: np.random.Generator) -> _Floats:
    """Add normal noise of the standard deviation `amount`."""
    return np.clip(pixels + rng.normal(0, amount, pixels.shape), 0, 1)


def impulse(pixels: _Floats, amount: float, rng: np.random.Generator) -> _Floats:
    """Make a share `amount` of the values black or white, each half of them."""
    drawn = rng.random(pixels.shape)
    return np.where(drawn < amount / 2, 0.0, np.where(drawn < amount, 1.0, pixels))


def shot(pixels: _Floats, amount: float, rng: np.random.Generator) -> _Floats:
    """Count photons, of which white has `amount`."""
    return np.clip(rng.poisson(np.clip(pixels, 0, 1) * amount) / amount, 0, 1)


NOISES: dict[str, tuple[Noise, tuple[float, ...], str]] = {
    "Gaussian noise": (gaussian, (0.08, 0.18, 0.38), "deviation {}"),
    "impulse noise": (impulse, (0.03, 0.09, 0.27), "share {}"),
    "shot noise": (shot, (60, 12, 3), "{} photons"),
}
"""By name: the noise, its amounts from little to much, and how an amount is told."""
