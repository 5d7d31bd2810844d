"""Cutting a request that is larger than a batch into parts along the batch axis, and joining what they gave."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lazyneuron.engine.artifact import BATCH_AXIS, Manifest
from lazyneuron.engine.requests import Array, Request

__all__ = ["joined_outputs", "split"]


def split(manifest: Manifest, request: Request, max_tokens: int) -> list[Request]:
    """Return the request in as few parts as fit a batch each, of nearly equal size; itself where it fits.

    A model whose requests cannot be joined gets it whole, and so does an example that alone is larger than a batch.

    Parameters
    ----------
    max_tokens
        The most tokens (examples × length) of a part.
    """
    if request.tokens <= max_tokens or request.batch == 1 or not manifest.batchable:
        return [request]
    most = max(1, max_tokens // request.length)
    count = -(-request.batch // most)
    edges = [request.batch * i // count for i in range(count + 1)]
    return [_part(request, first, last) for first, last in itertools.pairwise(edges)]


def _part(request: Request, first: int, last: int) -> Request:
    inputs = {name: array[first:last] for name, array in request.inputs.items()}  # every one begins with the batch
    return replace(request, inputs=inputs, axes={**request.axes, BATCH_AXIS: last - first}, batch=last - first)


def joined_outputs(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the outputs of consecutive parts, joined along the batch axis."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
