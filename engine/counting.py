"""From a batch's counts, as the operators returned them, to each request's own and to its padding's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.accounting import BlockCounts, block_counts
from lazyneuron.engine.artifact import BATCH_AXIS, BlockPlan, Manifest, ragged_axes
from lazyneuron.engine.collate import cut
from lazyneuron.engine.requests import Array, Request

__all__ = ["BatchCounts", "RowCounts", "batch_counts", "padding_counts"]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many of a block's neurons each row of a batch used. Holds the arrays alone: whoever wants them works it out.

    Attributes
    ----------
    active
        Integers of any shape, one a row.
    real
        Of the same shape, not 0 where a row is real and no padding; None: all are.
    """

    active: Array
    real: Array | None = None


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What one block did in a batch, over its real rows.

    Attributes
    ----------
    requests
        Each request's own, in their order.
    total
        Over all of them.
    rows
        Row by row.
    """

    requests: list[BlockCounts]
    total: BlockCounts
    rows: RowCounts


def batch_counts(
    manifest: Manifest,
    block: BlockPlan,
    feed: Mapping[str, Array],
    values: Mapping[str, Array],
    requests: Sequence[Request],
) -> BatchCounts:
    """Return what `block` did over the real rows of a batch, and of each of its requests.

    Parameters
    ----------
    manifest
        The model's.
    block
        One of its blocks.
    feed, values
        The batch's inputs and what came out, by name.
    requests
        Those of the batch, in their order.
    """
    active = values[block.active_output]
    candidates = None if block.candidates_output is None else values[block.candidates_output]
    mask = manifest.mask_for(block.rows)
    if block.rows[:1] == (BATCH_AXIS,) and (mask is not None or not _padded(block, requests)):
        # All requests in one pass: where padding is, the mask tells it.
        real = None if mask is None else feed[mask.name] != 0
        if real is None:
            rows = [request.batch * math.prod(active.shape[1:]) for request in requests]
        else:
            rows = _by_request(real, None, requests)
        sums = _by_request(active, real, requests)
        tested: Sequence[int | None] = (
            [None] * len(requests) if candidates is None else _by_request(candidates, real, requests)
        )
        by_row = RowCounts(active, None if mask is None else feed[mask.name])
    else:
        marks = None if mask is None else feed[mask.name]
        rows, sums, tested = _one_by_one(block, active, candidates, marks, requests)
        by_row = _own_rows(block, active, marks, requests)
    each = [
        block_counts(block, rows=r, active=a, candidates=c) for r, a, c in zip(rows, sums, tested, strict=True)
    ]  # fmt: skip
    if len(each) == 1:
        return BatchCounts(each, each[0], by_row)
    all_tested = None if candidates is None else sum(count for count in tested if count is not None)
    return BatchCounts(each, block_counts(block, rows=sum(rows), active=sum(sums), candidates=all_tested), by_row)


def _padded(block: BlockPlan, requests: Sequence[Request]) -> bool:
    """Return whether some of the requests are shorter than the batch along an axis of the block's rows."""
    ragged = ragged_axes(block.rows)
    return any(len({request.axes.get(axis) for request in requests}) > 1 for axis in ragged)


def _by_request(counts: Array, real: NDArray[np.bool_] | None, requests: Sequence[Request]) -> list[int]:
    """Return the sum over each request's rows; its examples stand together, in the requests' order."""
    counted = counts if real is None else counts * real
    if len(requests) == 1:
        return [int(counted.sum(dtype=np.int64))]
    examples = counted.reshape(len(counted), -1).sum(axis=1, dtype=np.int64)
    if len(requests) != len(examples):
        examples = np.add.reduceat(examples, list(accumulate((r.batch for r in requests[:-1]), initial=0)))
    sums: list[int] = examples.tolist()
    return sums


def _one_by_one(
    block: BlockPlan, active: Array, candidates: Array | None, mask: Array | None, requests: Sequence[Request]
) -> tuple[list[int], list[int], list[int | None]]:
    rows: list[int] = []
    sums: list[int] = []
    tested: list[int | None] = []
    first = 0
    for request in requests:
        mine = cut(active, block.rows, request, first)
        real = np.ones(mine.shape, bool) if mask is None else cut(mask, block.rows, request, first) != 0
        rows.append(int(real.sum()))
        sums.append(_sum(mine, real))
        tested.append(None if candidates is None else _sum(cut(candidates, block.rows, request, first), real))
        first += request.batch
    return rows, sums, tested


def _own_rows(block: BlockPlan, active: Array, mask: Array | None, requests: Sequence[Request]) -> RowCounts:
    """Return the rows that are a request's own, one request after the other."""
    firsts = np.cumsum([0, *(r.batch for r in requests[:-1])])

    def joined(values: Array) -> Array:
        return np.concatenate(
            [cut(values, block.rows, r, int(first)).ravel() for r, first in zip(requests, firsts, strict=True)]
        )

    return RowCounts(joined(active), None if mask is None else joined(mask))


def padding_counts(
    manifest: Manifest, block: BlockPlan, feed: Mapping[str, Array], values: Mapping[str, Array]
) -> BlockCounts:
    """Return what `block` did over a batch's padding rows; `flops_dense` is what they would cost unskipped."""
    mask = manifest.mask_for(block.rows)
    if mask is None:
        return BlockCounts(block.name, 0, 0, 0, 0, 0, 0)
    padding = feed[mask.name] == 0
    rows = int(np.count_nonzero(padding))
    if not rows:
        return BlockCounts(block.name, 0, 0, 0, 0, 0, 0)
    active = _sum(values[block.active_output], padding)
    if block.candidates_output is None:  # the up projection is computed for every row
        return block_counts(block, rows=rows, active=active)
    candidates = values[block.candidates_output]
    # A row of budget 0 is not even screened; a predictor's products, outside the operator, are done for every row.
    computed = rows if block.mode == "predictor" else int(np.count_nonzero(candidates[padding]))
    counts = block_counts(block, rows=computed, active=active, candidates=_sum(candidates, padding))
    return replace(counts, rows=rows, flops_dense=rows * block.flops.dense_per_row)


def _sum(counts: Array, where: NDArray[np.bool_] | bool = True) -> int:
    return int(np.sum(counts, dtype=np.int64, where=where))
