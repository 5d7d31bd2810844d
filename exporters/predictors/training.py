"""Predictors of all blocks, one after the other, each kept as soon as it is done."""

import shutil
import zipfile
from collections.abc import Container
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lazyneuron.engine.artifact import digest
from lazyneuron.engine.documents import written_beside
from lazyneuron.engine.errors import CalibrationError, ConfigurationError
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.cache import default_cache, entry, prune
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.predictors.block import BlockSettings, train_block
from lazyneuron.exporters.predictors.predictor import Measures, Predictor
from lazyneuron.exporters.predictors.rows import MOST_ROWS, BlockRows, collect, spread_of
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["train_predictors"]

_METHOD = 1
"""Raised when the same data and settings would give another predictor."""
_LEAST_EXAMPLES = 20
_LEAST_ROWS = 500


def train_predictors(
    measured: Measured, settings: ExportSettings, progress: Progress, *, only: Container[str] | None = None
) -> dict[str, Predictor | None]:
    """Train a predictor for blocks, or take it from the cache where an earlier export came that far.

    Scratch space in the cache: at most about 50,000 · (2 · d_model + d_ff / 8) bytes a block, removed when all blocks
    are done.

    Parameters
    ----------
    measured
        With rows (`measure(…, rows=True)`).
    only
        The names of the outputs of the blocks to train for; None: all.

    Returns
    -------
    By the names of the blocks' outputs, in the ledger's order; None where a predictor cannot pay.

    Raises
    ------
    CalibrationError
        If there are too few examples or rows to fit, to choose thresholds and to measure on.
    ConfigurationError
        If the rank asked for does not fit a block, or the cache cannot be written.
    """
    blocks = list(measured.ledger.blocks.values())
    _check_data(measured)
    _check_rank(blocks, settings.predictor_rank)
    wanted = BlockSettings(recall=settings.predictor_recall, rank=settings.predictor_rank)
    cache = settings.cache or default_cache()
    folder = entry(cache, "predictors", _content(measured, settings))
    try:
        prune(cache, "predictors")
        return _train_all(measured, wanted, folder, progress, only)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"{cache}: cannot keep predictors there: {reason}; give another folder with --cache"
        ) from error


def _train_all(
    measured: Measured, wanted: BlockSettings, folder: Path, progress: Progress, only: Container[str] | None
) -> dict[str, Predictor | None]:
    blocks = measured.ledger.blocks
    predictors: dict[str, Predictor | None] = {}
    for number, (key, block) in enumerate(blocks.items()):
        if only is not None and key not in only:
            continue
        kept = folder / f"{_name(wanted)}.{number}.npz"
        # Of other activations hardly a neuron is exactly zero, so there is no telling which ones fire.
        if not block.screenable:
            predictors[key] = None
            continue
        found = _read(kept)
        if not found:
            rows = collect(measured, folder, progress)
            read = BlockRows.read(rows, number, block)
            _check_rows(block, read)
            what = f"predictor {number + 1} of {len(blocks)}, {block.name}"
            made = train_block(block, read, spread_of(measured, number), wanted, progress=progress, what=what)
            found = (made,)
            _write(kept, made)
        predictors[key] = found[0]
    shutil.rmtree(folder / "rows", ignore_errors=True)
    return predictors


def _content(measured: Measured, settings: ExportSettings) -> dict[str, object]:
    """Return what determines the rows."""
    assert settings.calibration is not None
    return {
        "method": _METHOD,
        "checkpoint": measured.dense.source.digest,
        "task": measured.dense.task,
        "blocks": [block.name for block in measured.ledger.blocks.values()],
        "calibration": digest(settings.calibration).sha256,
        "examples": [measured.examples.count, measured.held_out, measured.batch_size],
        "rows": MOST_ROWS,
    }


def _name(wanted: BlockSettings) -> str:
    """Return what determines a predictor besides the rows, as a file's name."""
    tuning = "-".join(f"{value:g}" for value in asdict(wanted.tuning).values())
    return f"recall-{wanted.recall!r}.rank-{wanted.rank or 'auto'}.tuned-{tuning}"


def _check_data(measured: Measured) -> None:
    used = measured.examples.count - measured.held_out
    if used < _LEAST_EXAMPLES:
        raise CalibrationError(
            f"{measured.examples.name}: {measured.examples.count} examples are too few for mode predictor; "
            f"expected {_LEAST_EXAMPLES} to fit on besides those held out to measure on"
        )


def _check_rows(block: Block, rows: BlockRows) -> None:
    if len(rows.fit()) < _LEAST_ROWS or not len(rows.test()):
        raise CalibrationError(
            f"{block.name}: {len(rows.fit())} rows to fit a predictor on and {len(rows.test())} to measure it on are "
            f"too few; expected at least {_LEAST_ROWS} and 1: give more calibration data"
        )


def _check_rank(blocks: list[Block], rank: int | None) -> None:
    for block in blocks:
        if rank is not None and rank > block.d_model:
            raise ConfigurationError(
                f"predictor_rank is {rank}; expected at most {block.d_model}, the d_model of {block.name}"
            )


def _write(path: Path, predictor: Predictor | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    if predictor is not None:
        assert predictor.held_out is not None
        measures = np.array(list(asdict(predictor.held_out).values()), np.float64)
        arrays = {
            "first": predictor.first,
            "second": predictor.second,
            "offset": predictor.offset,
            "threshold": np.array(predictor.threshold),
            "held_out": measures,
        }
    with written_beside(path) as beside, beside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path) -> tuple[Predictor | None] | None:
    """Return what was written, in a tuple; None if there is nothing to read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not file.files:
                return (None,)
            rows, *shares = file["held_out"].tolist()
            return (
                Predictor(
                    file["first"],
                    file["second"],
                    file["offset"],
                    float(file["threshold"]),
                    Measures(int(rows), *shares),
                ),
            )
    except (FileNotFoundError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None
