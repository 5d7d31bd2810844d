"""Scikit-learn's handwritten digits: 1,797 real images of 8 by 8, of which the last fifth is held out."""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Split = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]


def load() -> Split:
    """Return training images [1437, 8, 8], held-out images [360, 8, 8] and their labels, always split alike."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    split = train_test_split(
        images, digits.target.astype(np.int64), test_size=360, random_state=0, stratify=digits.target
    )
    return tuple(split)  # type: ignore[return-value]
