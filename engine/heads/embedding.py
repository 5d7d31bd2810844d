"""Feature extraction: one vector for a text or an image."""

import numpy as np

from lazyneuron.engine.heads.answers import Embedding
from lazyneuron.engine.requests import Array

__all__ = ["embed"]


def embed(features: Array) -> Embedding:
    """Return the model's own vector, or the mean over its rows.

    Parameters
    ----------
    features
        [d_model], or [rows, …, d_model] of real rows only.
    """
    vector = features.reshape(-1, features.shape[-1]).mean(0, dtype=np.float64).astype(np.float32)
    return Embedding(vector, "model" if features.ndim == 1 else "mean")
