"""From a batch's counts, as the operators returned them, to each request's own and to its padding's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.accounting import BlockCounts, Sparsity, block_counts
from lazyneuron.engine.artifact import Axes, BlockPlan, Manifest, ragged_axes
from lazyneuron.engine.collate import cut
from lazyneuron.engine.requests import Array, Request

__all__ = ["BatchCounts", "Counting", "RowCounts"]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many of a block's neurons each row of a batch used. Holds the arrays alone: whoever wants them works it out.

    Attributes
    ----------
    active
        Integers, [rows].
    real
        bool, [rows]: False where a row is padding; None: all are real.
    """

    active: NDArray[np.integer]
    real: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What a model's blocks did in a batch.

    Attributes
    ----------
    requests
        Over each request's real rows, in the requests' order.
    total
        Over those of all.
    padding
        Over the padding rows; `flops_dense` is what they would cost unskipped.
    rows
        Row by row, one entry a block.
    """

    requests: list[Sparsity]
    total: Sparsity
    padding: Sparsity
    rows: tuple[RowCounts, ...]


_NO_ROWS = np.zeros(0, np.int32)

_Counts = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class _Group:
    """Blocks whose counts have the same axes, so that they are added up together.

    Attributes
    ----------
    rows
        The axes.
    mask
        The input that tells padding, by its name; None: there is none.
    places
        Where the blocks stand in the manifest.
    active, candidates
        Their counts' names; no candidates: every neuron's up projection is computed.
    """

    rows: Axes
    mask: str | None
    places: list[int] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)


class Counting:
    """Adds up one model's counts.

    Parameters
    ----------
    manifest
        The model's.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._blocks = manifest.blocks
        self._nothing = tuple(BlockCounts(block.name, 0, 0, 0, 0, 0, 0) for block in manifest.blocks)
        groups: dict[tuple[Axes, bool], _Group] = {}
        for place, block in enumerate(self._blocks):
            mask = manifest.mask_for(block.rows)
            key = block.rows, block.candidates_output is None
            group = groups.setdefault(key, _Group(block.rows, None if mask is None else mask.name))
            group.places.append(place)
            group.active.append(block.active_output)
            if block.candidates_output is not None:
                group.candidates.append(block.candidates_output)
        self._groups = list(groups.values())

    def of(self, requests: Sequence[Request], feed: Mapping[str, Array], values: Mapping[str, Array]) -> BatchCounts:
        """Return what the blocks did in a batch.

        Parameters
        ----------
        requests
            Those of the batch, in their order.
        feed, values
            The batch's inputs and what came out, by name.
        """
        own: list[list[BlockCounts]] = [[] for _ in self._blocks]
        padding = list(self._nothing)
        by_row = [RowCounts(_NO_ROWS)] * len(self._blocks)
        for group in self._groups:
            active, lengths = _flat(group, group.active, requests, values)
            candidates = _flat(group, group.candidates, requests, values)[0] if group.candidates else None
            mask = None if group.mask is None else feed[group.mask].ravel()
            real = None if mask is None or mask.all() else mask != 0
            rows = lengths if real is None else _sums(real[np.newaxis].view(np.int8), None, lengths)[0].tolist()
            used = _sums(active, real, lengths)
            tested = None if candidates is None else _sums(candidates, real, lengths)
            for index, place in enumerate(group.places):
                block = self._blocks[place]
                mine = [None] * len(requests) if tested is None else tested[index].tolist()
                own[place] = [
                    block_counts(block, rows=r, active=a, candidates=c)
                    for r, a, c in zip(rows, used[index].tolist(), mine, strict=True)
                ]
                by_row[place] = RowCounts(active[index], real)
                if real is not None:
                    among = None if candidates is None else candidates[index]
                    padding[place] = _padding(block, ~real, active[index], among)
        each = [Sparsity(blocks) for blocks in zip(*own, strict=True)]
        return BatchCounts(each, Sparsity.total(each), Sparsity(tuple(padding)), tuple(by_row))


def _flat(
    group: _Group, names: Sequence[str], requests: Sequence[Request], values: Mapping[str, Array]
) -> tuple[_Counts, list[int]]:
    """Return counts as [blocks, rows], one request's rows after the other's, and how many rows each has.

    Padding is among them where a mask tells it.
    """
    counts: _Counts = np.array([values[name] for name in names])
    blocks = len(names)
    if len(requests) == 1 or group.mask is not None or not _padded(group.rows, requests):
        flat = counts.reshape(blocks, -1)
        rows = flat.shape[1] // counts.shape[1] if len(requests) > 1 else 0
        return flat, [request.batch * rows for request in requests] if rows else [flat.shape[1]]
    firsts = accumulate((request.batch for request in requests[:-1]), initial=0)
    axes = (blocks, *group.rows)
    pieces = [cut(counts, axes, r, first).reshape(blocks, -1) for r, first in zip(requests, firsts, strict=True)]
    return np.concatenate(pieces, axis=1), [piece.shape[1] for piece in pieces]


def _padded(rows: Axes, requests: Sequence[Request]) -> bool:
    """Return whether some of the requests are shorter than the batch along an axis of a block's rows."""
    return any(len({request.axes.get(axis) for request in requests}) > 1 for axis in ragged_axes(rows))


def _sums(counts: _Counts, real: NDArray[np.bool_] | None, lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the sums over each request's real rows, int64 [blocks, requests]; padding may follow the last one's."""
    counted = counts if real is None else counts * real
    sums: NDArray[np.int64]
    if len(lengths) == 1:
        sums = counted.sum(axis=1, dtype=np.int64)[:, np.newaxis]
    else:
        firsts = list(accumulate(lengths[:-1], initial=0))
        sums = np.add.reduceat(counted, firsts, axis=1, dtype=np.int64)
    return sums


def _padding(block: BlockPlan, padding: NDArray[np.bool_], active: _Counts, candidates: _Counts | None) -> BlockCounts:
    """Return what a block did over padding rows."""
    rows, used = int(np.count_nonzero(padding)), int(active[padding].sum(dtype=np.int64))
    if candidates is None:  # the up projection is computed for every row
        return block_counts(block, rows=rows, active=used)
    tested = candidates[padding]
    # A row of budget 0 is not even screened; a predictor's products, outside the operator, are done for every row.
    computed = rows if block.mode == "predictor" else int(np.count_nonzero(tested))
    counts = block_counts(block, rows=computed, active=used, candidates=int(tested.sum(dtype=np.int64)))
    return replace(counts, rows=rows, flops_dense=rows * block.flops.dense_per_row)
