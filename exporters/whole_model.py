"""How long the whole model should take as planned: the dense model's time on examples, less what the blocks save."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path

from lazyneuron.engine.artifact import Axes
from lazyneuron.engine.session import open_session
from lazyneuron.engine.timing import Timing, clock_for, time_in_turns
from lazyneuron.exporters.batches import Feed, batches
from lazyneuron.exporters.masks import real_rows
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.plan_file import Plan, WholeModel
from lazyneuron.exporters.sessions import save

__all__ = ["whole_model"]

_SECONDS, _LEAST = 0.3, 3


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a block in a batch: all of them, which the dense model computes, and those that are no padding."""

    all: int
    real: int


def whole_model(measured: Measured, plan: Plan, rows: Mapping[str, Axes], scratch: Path, threads: int) -> WholeModel:
    """Time the dense model on held-out examples and predict the planned one.

    Parameters
    ----------
    plan
        With the costs of each block's alternatives.
    rows
        The axes of each block's rows, by its name.
    threads
        Those of the costs.
    """
    dense = measured.dense
    feed = _examples(measured, plan)
    path = scratch / "plain.onnx"
    save(dense.model, path)
    session = open_session(path, threads=threads, sparse=False)
    run = partial(session.run, [spec.name for spec in dense.outputs], feed)
    times = time_in_turns({"dense": run}, seconds=_SECONDS, least=_LEAST, clock=clock_for(threads))["dense"]
    saved, most = 0.0, 0
    for block in plan.blocks:
        counted = _count(measured, rows[block.name], feed)
        most = max(most, counted.real)
        if block.mode != "dense" and block.predicted is not None:
            # Under a person's cap to stay dense was not weighed: such a block is taken to save nothing.
            dense_cost = block.cost_of("dense") or block.predicted
            saved += 1e-6 * (counted.all * dense_cost - counted.real * block.predicted)
    seconds = Timing.of(times).median
    return WholeModel(
        rows=max(most, 1),
        threads=threads,
        dense_milliseconds=_digits(1e3 * seconds),
        predicted_milliseconds=_digits(1e3 * max(seconds - saved, seconds / 100)),
    )


def _examples(measured: Measured, plan: Plan) -> Feed:
    """Return a batch of held-out examples that has about as many rows as the plan is for."""
    each = max(counts.rows for counts in measured.counts) / max(measured.used, 1)
    wanted = max(round((plan.rows or each) / max(each, 1.0)), 1)
    count = min(wanted, max(measured.held_out, 1)) if measured.batch_size > 1 else measured.batch_size
    return next(batches(islice(measured.held_out_examples(), count), measured.dense.inputs, count))


def _count(measured: Measured, axes: Axes, feed: Feed) -> _Rows:
    inputs = measured.dense.inputs
    real = real_rows(inputs, axes, feed)
    if real is not None:
        return _Rows(real.size, int(real.sum()))
    sizes = {
        axis: size
        for spec in inputs
        for axis, size in zip(spec.shape, feed[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    total = prod(axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in axes)
    return _Rows(total, total)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
