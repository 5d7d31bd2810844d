"""What each row of a request used, block by block: for whoever asks, since most want the sums alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.collate import cut
from lazyneuron.engine.origins import Text, Token
from lazyneuron.engine.requests import Array, Request

__all__ = ["BlockRows", "block_rows", "joined_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class BlockRows:
    """What one MLP block did for each row of a request, as the operator counted.

    Attributes
    ----------
    name
        The block's name in the manifest.
    d_ff
        Its neurons.
    active
        int32, of the shape of the block's rows (`BlockPlan.rows`) in this request: neurons used.
    candidates
        Likewise: neurons whose up projection was computed; None: all of them, for every row.
    real
        bool, of the same shape: False for rows that the request itself masks as padding.
    tokens
        The text's tokens where the rows are its tokens, one for each; else empty.
    """

    name: str
    d_ff: int
    active: NDArray[np.int32]
    candidates: NDArray[np.int32] | None
    real: NDArray[np.bool_]
    tokens: tuple[Token, ...] = ()


def block_rows(
    manifest: Manifest, feed: Mapping[str, Array], values: Mapping[str, Array], request: Request, first: int
) -> tuple[BlockRows, ...]:
    """Return what each of the model's blocks did for each row of one request of a batch.

    Parameters
    ----------
    manifest
        The model's.
    feed, values
        The batch's inputs and what came out, by name.
    request
        The request.
    first
        The index of its first example along the batch axis.
    """
    counts = []
    for block in manifest.blocks:
        active = _own(values[block.active_output], request, block.rows, first)
        candidates = (
            None
            if block.candidates_output is None
            else _own(values[block.candidates_output], request, block.rows, first)
        )
        mask = manifest.mask_for(block.rows)
        real = np.ones(active.shape, bool) if mask is None else cut(feed[mask.name], block.rows, request, first) != 0
        tokens = _tokens(manifest, request, block.rows)
        counts.append(BlockRows(block.name, block.d_ff, active, candidates, real, tokens))
    return tuple(counts)


def joined_rows(parts: Sequence[tuple[BlockRows, ...]]) -> tuple[BlockRows, ...]:
    """Return the counts of consecutive parts of a request, joined along the batch axis; empty where there are none."""
    return tuple(_joined(column) for column in zip(*parts, strict=True))


def _own(counts: Array, request: Request, rows: tuple[int | str, ...], first: int) -> NDArray[np.int32]:
    """Return a copy of the request's own counts: a view would keep the whole batch's in memory."""
    return cut(counts, rows, request, first).astype(np.int32)


def _tokens(manifest: Manifest, request: Request, rows: tuple[int | str, ...]) -> tuple[Token, ...]:
    if not isinstance(request.origin, Text):
        return ()
    # An encoder–decoder's target has axes of its own; its rows are not the text's.
    of_text = [spec for spec in manifest.inputs if spec.role == "tokens" and spec.shape == rows]
    tokens = request.origin.tokens
    fits = any(request.inputs[spec.name].shape == (1, len(tokens)) for spec in of_text)
    return tokens if fits else ()


def _joined(column: Sequence[BlockRows]) -> BlockRows:
    candidates = [part.candidates for part in column if part.candidates is not None]
    return replace(
        column[0],
        active=np.concatenate([part.active for part in column]),
        candidates=np.concatenate(candidates) if candidates else None,
        real=np.concatenate([part.real for part in column]),
    )
